"""Run a node's forecast service: `python -m icosfl.serve --config forecast.toml`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from icosfl.config import ForecastConfig, load
from icosfl.errors import IcosflError
from icosfl.logs import set_up_logging
from icosfl.serve.server import serve


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m icosfl.serve", description="Answer forecasts of this node.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file, rendered by the role forecast_api")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config, ForecastConfig)
        set_up_logging(config.log_level)
        serve(config)
    except IcosflError as error:
        sys.stderr.write(f"icosfl.serve: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
