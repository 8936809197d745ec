"""Says once that something fails, and once that it works again."""

from __future__ import annotations

import logging

__all__ = ["Outage"]


class Outage:
    """One thing that may be away for a while, in the log.

    Args:
        logger: where it is said.
        what: the thing, as in "CloudWatch cannot be reached".
    """

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._lasts = False

    def failed(self, error: Exception) -> None:
        """It failed; said if it worked before."""
        if not self._lasts:
            self._lasts = True
            # The error of a time-out has no text.
            self._logger.warning("%s: %s", self._what, str(error) or "no answer in time")

    def worked(self) -> None:
        """It worked; said if it failed before."""
        if self._lasts:
            self._lasts = False
            self._logger.info("%s: over", self._what)
