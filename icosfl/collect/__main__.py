"""`python -m icosfl.collect --config collect.toml`: run the host-metrics service until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from icosfl.collect.service import CollectService
from icosfl.config import CollectConfig, load
from icosfl.errors import IcosflError
from icosfl.logs import set_up_logging

logger = logging.getLogger("icosfl.collect")

_STOP = {signal.SIGTERM, signal.SIGINT}


def _stop_asked(seconds: float) -> bool:
    """Wait for a signal to stop, at most `seconds`."""
    return signal.sigtimedwait(_STOP, seconds) is not None


def main() -> int:
    """Run the service; return the process exit code."""
    parser = argparse.ArgumentParser(prog="python -m icosfl.collect", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the service's TOML file")
    arguments = parser.parse_args()
    set_up_logging("info")
    # Blocked before any thread starts, so that the signals wait for `_stop_asked` and interrupt nothing half done.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        config = load(arguments.config, CollectConfig)
        set_up_logging(config.log_level)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it says every scrape
        with CollectService(config) as service:
            logger.info(
                "%s: metrics of %s every %g s on %s, pushed %s",
                config.service_name,
                config.host,
                config.period_seconds,
                config.listen,
                f"to {config.push_to}" if config.push_to else "nowhere",
            )
            service.run(_stop_asked)
    except IcosflError as error:
        logger.error("%s", error)  # noqa: TRY400  the message says it; a trace is for what nobody foresaw
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
