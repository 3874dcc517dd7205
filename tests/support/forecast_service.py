"""The forecast service as the fleet runs it, in a process of its own, and a model for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import tomli_w
from pydantic import TypeAdapter

from icosfl.config import Endpoint, ForecastConfig, NodeConfig, SeriesConfig, StoreConfig
from icosfl.errors import Unavailable
from icosfl.schema import Rows, Schema
from icosfl.train.artifact import Artifact, now_utc, save
from icosfl.train.linear import fit_blend, fit_common
from icosfl.train.local import Plan, cut, cutoff_of
from icosfl.train.loop import fit
from icosfl.train.model import build, take_common, to_arrays
from icosfl.train.shape import ModelShape
from support.dataclay_stack import free_ports

PERIOD_SECONDS, MAX_GAP_SECONDS = 1.0, 3.0
WINDOW, HORIZONS, SEASON = 12, (1, 5), 20

T = TypeVar("T")


@dataclass(frozen=True)
class ForecastService:
    """A running forecast service."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    models_dir: Path

    def get(self, path: str) -> httpx.Response:
        """What it answers to a GET."""
        return httpx.get(f"http://{self.address}{path}", timeout=10, trust_env=False)

    def until(self, ask: Callable[[str, float], T], good: Callable[[T], bool]) -> T:
        """The first good answer, within a minute."""
        deadline = time.monotonic() + 60
        answer: object = None
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                answer = found = ask(self.address, 10)
            except Unavailable as error:
                answer = error
            else:
                if good(found):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"{answer}\n{self.log.read_text()}")

    def stop(self) -> int:
        """Stop it in peace; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def running_forecast(
    directory: Path, store: StoreConfig, series: tuple[SeriesConfig, ...]
) -> Iterator[ForecastService]:
    """The service on a node of these series; it looks for models in `models_dir`."""
    (port,) = free_ports(1)
    models_dir = directory / "models"
    node = NodeConfig(
        host="worker1",
        period_seconds=PERIOD_SECONDS,
        max_gap_seconds=MAX_GAP_SECONDS,
        stale_after_seconds=3600.0,
        models_dir=models_dir,
        runs_dir=directory / "runs",
        store=store,
        series=series,
    )
    config = ForecastConfig(Endpoint("127.0.0.1", port), 0.1, 1.0, node, "info")
    path, log = directory / "forecast.toml", directory / "forecast.log"
    path.write_text(tomli_w.dumps(TypeAdapter(ForecastConfig).dump_python(config, mode="json")), encoding="utf-8")
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "icosfl.serve", "--config", str(path)], stderr=file)
    try:
        yield ForecastService(process, f"127.0.0.1:{port}", log, models_dir)
    finally:
        process.kill()
        process.wait()


def taught(rows: Rows, schema: Schema, directory: Path, epochs: int) -> Artifact:
    """A model of the first three quarters of the rows, saved where the service looks."""
    plan = Plan(schema.names, WINDOW, HORIZONS, SEASON, PERIOD_SECONDS, MAX_GAP_SECONDS)
    prepared = cut(rows, schema, plan, cutoff_of(rows, 0.75))
    shape = ModelShape("lstm", series=len(schema), horizons=len(HORIZONS), window=WINDOW, hidden=16, layers=1)
    model = build(shape, seed=1)
    take_common(model, fit_common(prepared.train))
    linear = fit_blend(prepared.train)
    fit(model, prepared.train, linear, epochs=epochs, learning_rate=0.01, batch_size=32, seed=1)
    artifact = Artifact(
        schema=schema,
        period_seconds=PERIOD_SECONDS,
        horizons=HORIZONS,
        season=SEASON,
        train_fraction=0.75,
        shape=shape,
        taught=prepared.present,
        run=f"run-{epochs}",
        round=epochs,
        nodes=("worker1",),
        created=now_utc(),
        parent=None,
        arrays=tuple(to_arrays(model)),
    )
    save(artifact, directory)
    return artifact
