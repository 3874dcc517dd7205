"""Logging for states that last: said once when they begin and once when they change, not at every sample."""

from __future__ import annotations

import logging


class Notice:
    """One state of a service, such as "the bridge does not answer".

    Args:
        logger: Where the words go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._trouble = ""

    def trouble(self, words: str, state: str = "") -> None:
        """Warn with `words`, unless that was said last, or was said of the same `state`."""
        if (state or words) != self._trouble:
            self._trouble = state or words
            self._logger.warning(words)

    def over(self, words: str) -> None:
        """Say that the trouble is over, if there was one."""
        if self._trouble:
            self._trouble = ""
            self._logger.info(words)
