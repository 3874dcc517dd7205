"""One way to log for all services: one line a record, to standard error, for the process manager to keep."""

from __future__ import annotations

import logging

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(level: str) -> None:
    """Send records of `level` (debug, info, warning, error) and above to standard error."""
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT, force=True)
