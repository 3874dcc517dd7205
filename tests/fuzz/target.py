"""What libFuzzer calls: each run is one body of a request."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["icosfl.bridge"]):
    from support.otlp_fuzz import check, new_reader

# One reader for all runs: what an earlier request left in its cache must not change what a later one gives.
READER = new_reader()


def run(body: bytes) -> None:
    check(READER, body)


if __name__ == "__main__":
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()
