"""Fuzz the bridge's reader for some seconds and say what came of it: `scripts/fuzz [SECONDS]`."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given, settings

from support.otlp_fuzz import new_reader
from support.otlp_requests import NOW, bodies

PROJECT = Path(__file__).parents[2]
PLACE = PROJECT / ".cache/fuzz"
LONGEST_REQUEST = 4096
SECONDS_A_REQUEST = 10
MIB_AT_ONCE = 512


def main(seconds: int) -> int:
    corpus, found = PLACE / "corpus", PLACE / "found"
    for directory in (corpus, found):
        directory.mkdir(parents=True, exist_ok=True)
    seeds = plant(corpus)
    before = {path.name for path in found.iterdir()}
    started = time.monotonic()
    log = PLACE / "log.txt"
    with log.open("wb") as output:
        code = subprocess.run(
            [
                sys.executable,
                str(Path(__file__).with_name("target.py")),
                f"-max_total_time={seconds}",
                f"-max_len={LONGEST_REQUEST}",
                f"-timeout={SECONDS_A_REQUEST}",
                # what is measured here grows with each run, for atheris's own traces do: see `left_behind`
                "-rss_limit_mb=0",
                f"-malloc_limit_mb={MIB_AT_ONCE}",
                f"-artifact_prefix={found}/",
                "-print_final_stats=1",
                str(corpus),
            ],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=output,
            stderr=output,
            check=False,
        ).returncode
    told = log.read_text(encoding="utf-8", errors="replace")
    new = sorted({path.name for path in found.iterdir()} - before)
    counts = {kind: sum(name.startswith(kind) for name in new) for kind in ("crash", "timeout", "oom", "leak")}
    runs = last(told, "stat::number_of_executed_units: *([0-9]+)")
    took = time.monotonic() - started
    sys.stdout.write(
        f"fuzz: {runs} requests in {took:.0f} s from {seeds} seeds: {counts['crash']} crashes, "
        f"{counts['timeout']} hangs, {counts['oom'] + counts['leak']} out of memory; "
        f"to read the {len(list(corpus.iterdir()))} kept ones again leaves {left_behind(corpus)} bytes behind\n"
    )
    if code:
        sys.stderr.write(f"fuzz: see {log} and {[str(found / name) for name in new]}; run one by: {again()}\n")
    return int(code != 0)


def plant(corpus: Path) -> int:
    """Put valid requests of every shape into the corpus."""
    count = 0

    @settings(
        max_examples=300,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(body=bodies)
    def seed(body: bytes) -> None:
        nonlocal count
        (corpus / f"seed-{count}").write_bytes(body)
        count += 1

    seed()
    return count


def left_behind(corpus: Path) -> int:
    """How much memory stays in use after all that was found worth keeping is read once more."""
    reader, sizes = new_reader(), []
    tracemalloc.start()
    for _ in range(3):
        for path in corpus.iterdir():
            with suppress(DecodeError):
                reader.read(path.read_bytes(), NOW)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return sizes[2] - sizes[1]


def last(text: str, pattern: str) -> str:
    found = re.findall(pattern, text)
    return found[-1] if found else "?"


def again() -> str:
    target = Path(__file__).with_name("target.py").relative_to(PROJECT)
    return f"PYTHONPATH=.cache/fuzz/tools:tests .venv/bin/python {target} FILE"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
