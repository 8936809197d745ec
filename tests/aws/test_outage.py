"""What the log says of things that may be away for a while."""

import logging

from nativelink.aws.outage import Outage


def test_an_outage_is_told_once_with_its_reason_and_so_is_its_end(caplog):
    caplog.set_level(logging.INFO, logger="outage")
    outage = Outage(logging.getLogger("outage"), "it cannot be reached")
    for error in (TimeoutError(), OSError("refused")):
        outage.failed(error)
        outage.failed(error)
        outage.worked()
        outage.worked()
    assert [record.getMessage() for record in caplog.records] == [
        "it cannot be reached: no answer in time",
        "it cannot be reached: over",
        "it cannot be reached: refused",
        "it cannot be reached: over",
    ]
