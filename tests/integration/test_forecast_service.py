"""The forecast service as a process, over HTTP: with no rows, and with rows in dataClay and a model."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from icosfl.config import Endpoint, SeriesConfig, StoreConfig, schema_of
from icosfl.schema import Rows
from icosfl.serve.client import read_forecast, read_readiness
from icosfl.serve.values import ForecastPage
from icosfl.store import open_store
from support.dataclay_stack import DataclayStack, free_ports
from support.forecast_service import running_forecast, taught

SERIES = (SeriesConfig("cpu_usage", "%"), SeriesConfig("memory_usage", "MiBy"), SeriesConfig("power", "W"))
SCHEMA = schema_of(SERIES)
SECOND = 10**9
ROWS = 480


def truth(seconds: np.ndarray) -> np.ndarray:
    """A load that repeats every 20 s, and memory that follows it; the host has no power meter."""
    wave = np.sin(seconds * (2 * math.pi / 20))
    return np.stack([50 + 30 * wave, 2000 + 100 * wave, np.full_like(wave, np.nan)], axis=1)


def rows_up_to(end_ns: int, count: int) -> Rows:
    times = end_ns - np.arange(count - 1, -1, -1, dtype=np.int64) * SECOND
    return Rows(times, truth(times / SECOND))


def memory_store() -> StoreConfig:
    return StoreConfig("memory", "rows", 100, 1.0, Endpoint("127.0.0.1", 1), "d", "u", "p")


def test_a_node_without_rows_and_model_lives_says_why_it_cannot_forecast_and_stops_in_peace(tmp_path: Path) -> None:
    with running_forecast(tmp_path, memory_store(), SERIES) as service:
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
    with running_forecast(tmp_path, memory_store(), SERIES) as service:
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

    with running_forecast(tmp_path, store, SERIES) as service:
        readiness = service.until(read_readiness, lambda answer: "not available" in " ".join(answer.reasons))

        assert readiness.store is None
        assert service.get("/healthz").status_code == 200
        assert service.get("/metrics").status_code == 200
        assert service.stop() == 0


def test_a_service_that_is_there_before_the_window_makes_none_says_so_and_finds_it_later(
    dataclay_stack: DataclayStack, tmp_path: Path
) -> None:
    config = dataclay_stack.store_config("forecast_before_the_window", capacity=600, deadline_seconds=2.0)
    with running_forecast(tmp_path, config, SERIES) as service:
        service.until(read_readiness, lambda answer: "does not exist yet" in " ".join(answer.reasons))

        with open_store(config, SCHEMA) as store:
            store.append(rows_up_to(time.time_ns() // SECOND * SECOND, ROWS))
            service.until(read_readiness, lambda answer: answer.store is not None and answer.store.rows == ROWS)


def test_rows_in_dataclay_and_a_model_make_forecasts_near_the_truth(
    dataclay_stack: DataclayStack, tmp_path: Path
) -> None:
    config = dataclay_stack.store_config("forecast_service", capacity=600)
    newest = time.time_ns() // SECOND * SECOND
    rows = rows_up_to(newest, ROWS)
    with open_store(config, SCHEMA) as store, running_forecast(tmp_path, config, SERIES) as service:
        store.append(rows)
        service.until(read_readiness, lambda answer: answer.store is not None and answer.store.rows == ROWS)
        assert service.get("/v1/forecast").status_code == 503

        poor = taught(rows, SCHEMA, service.models_dir, epochs=1)
        first = service.until(read_forecast, lambda page: page.ready)
        good = taught(rows, SCHEMA, service.models_dir, epochs=60)
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
            assert item.value == item.candidates[item.model]
            assert item.errors[item.model].rmse < 0.15 * unit
            assert item.errors["global"].rmse < 0.15 * unit
            assert item.candidates["persistence"] == item.last
            assert item.candidates["seasonal_naive"] == pytest.approx(then, abs=1e-3)
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
        served = {
            (sample.labels["series"], float(sample.labels["horizon_seconds"]), sample.labels["model"])
            for sample in samples
            if sample.name == "icosfl_forecast_served"
        }
        assert served == {(item.series, item.horizon_seconds, item.model) for item in newest_page.forecasts}
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text()


def first_time(page: ForecastPage) -> datetime:
    assert page.based_on is not None
    return page.based_on
