"""Twenty wrong files, each with the messages that a person would hope for.

`wrong/NAME.json5` is a file, `wrong/NAME.txt` all that is reported about it.
"""

from pathlib import Path

import pytest

from nativelink.config.load import examine

WRONG = sorted((Path(__file__).parent / "wrong").glob("*.json5"))


def test_there_are_twenty_wrong_files():
    assert len(WRONG) == 20


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_a_wrong_file_gets_exactly_these_messages(path):
    report = examine(path.read_text(encoding="utf-8"), path.name, {"HOME": "/home/me"})
    reported = "".join(f"{finding}\n" for finding in report.findings)
    assert reported == path.with_suffix(".txt").read_text(encoding="utf-8")
    assert report.config is None
    assert report.errors
