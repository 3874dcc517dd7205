"""The forecast service as a process, over HTTP: with no rows, and with rows in dataClay and a model."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import pytest
import tomli_w
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter

from icosfl.config import Endpoint, ForecastConfig, NodeConfig, SeriesConfig, StoreConfig, schema_of
from icosfl.errors import Unavailable
from icosfl.process.scale import Moments
from icosfl.schema import Rows
from icosfl.serve.client import read_forecast, read_readiness
from icosfl.serve.values import ForecastPage
from icosfl.store import open_store
from icosfl.train.artifact import Artifact, now_utc, save
from icosfl.train.local import Plan, cut, cutoff_of
from icosfl.train.loop import fit
from icosfl.train.model import build, to_arrays
from icosfl.train.shape import ModelShape
from support.dataclay_stack import DataclayStack, free_ports

SERIES = (SeriesConfig("cpu_usage", "%"), SeriesConfig("memory_usage", "MiBy"), SeriesConfig("power", "W"))
SCHEMA = schema_of(SERIES)
SECOND = 10**9
T = TypeVar("T")
ROWS, WINDOW, HORIZONS = 480, 12, (1, 5)


def truth(seconds: np.ndarray) -> np.ndarray:
    """A load that repeats every 20 s, and memory that follows it; the host has no power meter."""
    wave = np.sin(seconds * (2 * math.pi / 20))
    return np.stack([50 + 30 * wave, 2000 + 100 * wave, np.full_like(wave, np.nan)], axis=1)


def rows_up_to(end_ns: int, count: int) -> Rows:
    times = end_ns - np.arange(count - 1, -1, -1, dtype=np.int64) * SECOND
    return Rows(times, truth(times / SECOND))


def taught(rows: Rows, directory: Path, epochs: int) -> Artifact:
    """A model of the first three quarters of the rows, saved where the service looks."""
    plan = Plan(SCHEMA.names, WINDOW, HORIZONS, 1.0, 3.0)
    cutoff = cutoff_of(rows, 0.75)
    train = cut(rows, SCHEMA, plan, cutoff).train
    scaler = Moments.of(rows.values[rows.times <= cutoff]).scaler()
    shape = ModelShape(series=len(SCHEMA), horizons=len(HORIZONS), hidden=16, layers=1)
    model = build(shape, seed=1)
    fit(model, train, scaler, epochs=epochs, learning_rate=0.01, batch_size=32, seed=1)
    artifact = Artifact(
        schema=SCHEMA,
        period_seconds=1.0,
        window=WINDOW,
        horizons=HORIZONS,
        train_fraction=0.75,
        scaler=scaler,
        shape=shape,
        run=f"run-{epochs}",
        round=epochs,
        nodes=("worker1",),
        created=now_utc(),
        parent=None,
        arrays=tuple(to_arrays(model)),
    )
    save(artifact, directory)
    return artifact


@dataclass(frozen=True)
class Service:
    """A running forecast service."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    models_dir: Path

    def get(self, path: str) -> httpx.Response:
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
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def running(directory: Path, store: StoreConfig) -> Iterator[Service]:
    """The service as the fleet runs it."""
    (port,) = free_ports(1)
    models_dir = directory / "models"
    node = NodeConfig("worker1", 1.0, 3.0, 3600.0, models_dir, directory / "runs", store, SERIES)
    config = ForecastConfig(Endpoint("127.0.0.1", port), 0.1, 1.0, node, "info")
    path, log = directory / "forecast.toml", directory / "forecast.log"
    path.write_text(tomli_w.dumps(TypeAdapter(ForecastConfig).dump_python(config, mode="json")), encoding="utf-8")
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "icosfl.serve", "--config", str(path)], stderr=file)
    try:
        yield Service(process, f"127.0.0.1:{port}", log, models_dir)
    finally:
        process.kill()
        process.wait()


def memory_store() -> StoreConfig:
    return StoreConfig("memory", "rows", 100, 1.0, Endpoint("127.0.0.1", 1), "d", "u", "p")


def test_a_node_without_rows_and_model_lives_says_why_it_cannot_forecast_and_stops_in_peace(tmp_path: Path) -> None:
    with running(tmp_path, memory_store()) as service:
        readiness = service.until(read_readiness, lambda answer: answer.store is not None)

        assert not readiness.ready
        assert "no model yet" in readiness.reasons[0]
        assert "the store is empty" in readiness.reasons[1]
        assert service.get("/healthz").status_code == 200
        assert service.get("/v1/forecast").status_code == 503
        assert "icosfl_forecast_ready 0.0" in service.get("/metrics").text
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text()


def test_a_busy_port_ends_the_start_with_one_line_and_its_cure(tmp_path: Path) -> None:
    with running(tmp_path, memory_store()) as service:
        service.until(read_readiness, lambda answer: True)

        second = subprocess.run(
            [sys.executable, "-m", "icosfl.serve", "--config", str(tmp_path / "forecast.toml")],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert second.returncode == 30
    assert second.stderr.count("\n") == 1
    assert f"another process listens on {service.address}" in second.stderr
    assert "stop it" in second.stderr


def test_a_missing_configuration_ends_the_start_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "icosfl.serve", "--config", str(tmp_path / "none.toml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "none.toml: cannot be read" in done.stderr


def test_a_store_that_is_not_there_is_a_reason_and_blocks_neither_pages_nor_the_end(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    store = StoreConfig("dataclay", "rows", 100, 2.0, Endpoint("127.0.0.1", port), "admin", "admin", "admin")

    with running(tmp_path, store) as service:
        readiness = service.until(read_readiness, lambda answer: "not available" in " ".join(answer.reasons))

        assert readiness.store is None
        assert service.get("/healthz").status_code == 200
        assert service.get("/metrics").status_code == 200
        assert service.stop() == 0


def test_rows_in_dataclay_and_a_model_make_forecasts_near_the_truth(
    dataclay_stack: DataclayStack, tmp_path: Path
) -> None:
    config = dataclay_stack.store_config("forecast_service", capacity=600)
    newest = time.time_ns() // SECOND * SECOND
    rows = rows_up_to(newest, ROWS)
    with open_store(config, SCHEMA) as store, running(tmp_path, config) as service:
        store.append(rows)
        service.until(read_readiness, lambda answer: answer.store is not None and answer.store.rows == ROWS)
        assert service.get("/v1/forecast").status_code == 503

        poor = taught(rows, service.models_dir, epochs=1)
        first = service.until(read_forecast, lambda page: page.ready)
        good = taught(rows, service.models_dir, epochs=60)
        page = service.until(read_forecast, lambda page: page.model is not None and page.model.digest == good.digest)

        assert first.model is not None
        assert first.model.digest == poor.digest
        assert page.ready
        assert [item.series for item in page.omitted] == ["power"]
        assert page.based_on is not None
        assert page.based_on.timestamp() == newest / SECOND
        assert len(page.forecasts) == 4
        for item in page.forecasts:
            column, unit = {"cpu_usage": (0, 30.0), "memory_usage": (1, 100.0)}[item.series]
            now, then = truth(np.array([newest / SECOND, item.time.timestamp()]))[:, column]
            assert item.last == pytest.approx(now)
            assert item.time.timestamp() == newest / SECOND + item.horizon_seconds
            assert item.value == pytest.approx(then, abs=0.15 * unit)
            assert item.lower is not None
            assert item.upper is not None
            assert item.lower <= item.value <= item.upper
            assert item.rmse["model"] is not None
            assert item.rmse["model"] < 0.15 * unit
            assert item.baselines["persistence"] == item.last
            assert item.skill["persistence"] is not None
            assert item.skill["persistence"] > 0.5

        store.append(Rows(rows.times[-1:] + SECOND, truth((rows.times[-1:] + SECOND) / SECOND)))
        later = service.until(
            read_forecast, lambda page: page.based_on is not None and page.based_on > first_time(first)
        )
        assert later.ready

        text = service.get("/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        shown = {
            (sample.labels["series"], float(sample.labels["horizon_seconds"])): sample.value
            for sample in samples
            if sample.name == "icosfl_forecast"
        }
        newest_page = read_forecast(service.address, 10)
        assert shown == {(item.series, item.horizon_seconds): item.value for item in newest_page.forecasts}
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text()


def first_time(page: ForecastPage) -> datetime:
    assert page.based_on is not None
    return page.based_on
