from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from icosfl.serve.app import build_app
from icosfl.serve.metrics import Counts
from icosfl.serve.values import (
    Evaluation,
    Forecast,
    ForecastPage,
    ModelInfo,
    Omitted,
    Readiness,
    StoreState,
)
from icosfl.train.scores import Errors, Scores

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MODEL = ModelInfo("ab12", "run-1", 3, ("worker1", "worker2"), NOON)
FORECAST = Forecast(
    series="cpu_usage",
    unit="%",
    horizon_seconds=60.0,
    time=NOON + timedelta(seconds=60),
    last=40.0,
    model="ar",
    value=42.5,
    lower=38.0,
    upper=47.0,
    candidates={"global": 43.0, "persistence": 40.0, "seasonal_naive": None, "ar": 42.5},
    errors={"global": Errors(1.5, 2.0, 4.0, 0.7), "ar": Errors(1.4, 1.9, 3.5, None)},
    skill={"persistence": 0.2, "seasonal_naive": None, "ar": -0.05},
    coverage=0.81,
    width=8.5,
)
READY = Readiness(True, (), ("power is not forecast: no meter",), "worker1", StoreState(90, 100, NOON, 1.5), MODEL)
PAGE = ForecastPage(
    ready=True,
    reasons=(),
    warnings=READY.warnings,
    host="worker1",
    generated=NOON,
    based_on=NOON,
    model=MODEL,
    interval=0.8,
    forecasts=(FORECAST,),
    omitted=(Omitted("power", "no meter"),),
    evaluation=Evaluation(NOON, NOON, NOON, Scores(60, 20, ())),
)
WHY = ("no model yet", "the store is empty")


class Fixed:
    """A source that always says the same."""

    def __init__(self, readiness: Readiness, page: ForecastPage) -> None:
        self._readiness = readiness
        self._page = page

    def readiness(self) -> Readiness:
        return self._readiness

    def page(self) -> ForecastPage:
        return self._page

    def counts(self) -> Counts:
        return Counts(reads=7, failed_reads=2, models=1, refused_models=1, evaluations=3)


class Broken(Fixed):
    """A source with a defect."""

    def page(self) -> ForecastPage:
        raise ZeroDivisionError


class Client:
    """Asks the app without a socket."""

    def __init__(self, source: Fixed, retry_seconds: float = 1.0) -> None:
        self._transport = httpx.ASGITransport(build_app(source, retry_seconds), raise_app_exceptions=False)

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def request(self, method: str, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://node") as client:
                return await client.request(method, path)

        return asyncio.run(ask())


@pytest.fixture
def ready() -> Client:
    return Client(Fixed(READY, PAGE))


@pytest.fixture
def unready() -> Client:
    readiness = Readiness(False, WHY, (), "worker1", None, None)
    page = replace(
        PAGE, ready=False, reasons=WHY, warnings=(), generated=None, based_on=None, model=None, evaluation=None,
        interval=None, forecasts=(), omitted=(),
    )  # fmt: skip
    return Client(Fixed(readiness, page), 1.5)


def samples(client: Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def labels(**pairs: str) -> frozenset[tuple[str, str]]:
    return frozenset(pairs.items())


def strict(text: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_ready_node_answers_200_with_what_it_is_ready_with(ready: Client) -> None:
    answer = ready.get("/readyz")

    assert answer.status_code == 200
    assert strict(answer.content) == {
        "ready": True,
        "reasons": [],
        "warnings": ["power is not forecast: no meter"],
        "host": "worker1",
        "store": {"rows": 90, "capacity": 100, "newest": "2026-03-01T12:00:00Z", "age_seconds": 1.5},
        "model": {
            "digest": "ab12",
            "run": "run-1",
            "round": 3,
            "nodes": ["worker1", "worker2"],
            "created": "2026-03-01T12:00:00Z",
        },
    }


def test_forecasts_have_the_promised_shape(ready: Client) -> None:
    answer = ready.get("/v1/forecast")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    page = strict(answer.content)
    assert (page["host"], page["interval"], page["based_on"]) == ("worker1", 0.8, "2026-03-01T12:00:00Z")
    assert page["omitted"] == [{"series": "power", "reason": "no meter"}]
    assert page["evaluation"] == {
        "cutoff": "2026-03-01T12:00:00Z",
        "until": "2026-03-01T12:00:00Z",
        "evaluated": "2026-03-01T12:00:00Z",
        "scores": {"train_windows": 60, "held_out_windows": 20, "scores": []},
    }
    assert page["forecasts"] == [
        {
            "series": "cpu_usage",
            "unit": "%",
            "horizon_seconds": 60.0,
            "time": "2026-03-01T12:01:00Z",
            "last": 40.0,
            "model": "ar",
            "value": 42.5,
            "lower": 38.0,
            "upper": 47.0,
            "candidates": {"global": 43.0, "persistence": 40.0, "seasonal_naive": None, "ar": 42.5},
            "errors": {
                "global": {"mae": 1.5, "rmse": 2.0, "smape": 4.0, "mase": 0.7},
                "ar": {"mae": 1.4, "rmse": 1.9, "smape": 3.5, "mase": None},
            },
            "skill": {"persistence": 0.2, "seasonal_naive": None, "ar": -0.05},
            "coverage": 0.81,
            "width": 8.5,
        }
    ]


@pytest.mark.parametrize("path", ["/readyz", "/v1/forecast"])
def test_a_node_that_is_not_ready_answers_503_with_all_reasons(unready: Client, path: str) -> None:
    answer = unready.get(path)

    assert answer.status_code == 503
    assert strict(answer.content)["reasons"] == list(WHY)
    assert answer.headers["retry-after"] == "2"


def test_a_node_that_is_not_ready_lives(unready: Client) -> None:
    assert unready.get("/healthz").status_code == 200


def test_metrics_hold_forecasts_with_series_horizon_and_unit(ready: Client) -> None:
    found = samples(ready)

    horizon = labels(series="cpu_usage", horizon_seconds="60")
    in_unit = horizon | labels(unit="%")
    assert found["icosfl_forecast", in_unit] == 42.5
    assert found["icosfl_forecast_lower", in_unit] == 38.0
    assert found["icosfl_forecast_upper", in_unit] == 47.0
    assert found["icosfl_forecast_width", in_unit] == 8.5
    assert found["icosfl_forecast_coverage", horizon] == 0.81
    assert found["icosfl_forecast_skill", horizon | labels(baseline="ar")] == -0.05
    assert found["icosfl_forecast_last", labels(series="cpu_usage", unit="%")] == 40.0
    assert found["icosfl_forecast_based_on_timestamp_seconds", labels()] == NOON.timestamp()


def test_metrics_say_of_each_predictor_what_it_forecasts_and_how_far_off_it_was(ready: Client) -> None:
    found = samples(ready)

    horizon = labels(series="cpu_usage", horizon_seconds="60", model="global")
    assert found["icosfl_forecast_candidate", horizon | labels(unit="%")] == 43.0
    assert found["icosfl_forecast_mae", horizon | labels(unit="%")] == 1.5
    assert found["icosfl_forecast_rmse", horizon | labels(unit="%")] == 2.0
    assert found["icosfl_forecast_smape_percent", horizon] == 4.0
    assert found["icosfl_forecast_mase", horizon] == 0.7


def test_a_change_of_what_is_served_changes_no_series_but_the_one_that_names_it() -> None:
    def shown(model: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        forecasts = (replace(FORECAST, model=model),)
        found = samples(Client(Fixed(READY, replace(PAGE, forecasts=forecasts))))
        return {key for key in found if key[0].startswith("icosfl")}

    horizon = labels(series="cpu_usage", horizon_seconds="60")
    assert shown("global") - shown("ar") == {("icosfl_forecast_served", horizon | labels(model="global"))}
    assert shown("ar") - shown("global") == {("icosfl_forecast_served", horizon | labels(model="ar"))}


def test_metrics_leave_out_what_has_no_value(ready: Client) -> None:
    found = samples(ready)

    assert not [key for key in found if {("baseline", "seasonal_naive"), ("model", "seasonal_naive")} & key[1]]
    assert not [key for key in found if key[0] == "icosfl_forecast_mase" and ("model", "ar") in key[1]]


def test_metrics_hold_the_store_the_model_and_the_services_own_counts(ready: Client) -> None:
    found = samples(ready)

    assert found["icosfl_forecast_ready", labels()] == 1
    assert found["icosfl_store_rows", labels()] == 90
    assert found["icosfl_store_capacity_rows", labels()] == 100
    assert found["icosfl_store_newest_timestamp_seconds", labels()] == NOON.timestamp()
    assert found["icosfl_model_round", labels()] == 3
    assert found["icosfl_model_info", labels(run="run-1", digest="ab12")] == 1
    assert found["icosfl_forecast_store_reads_total", labels(result="failed")] == 2
    assert found["icosfl_forecast_models_total", labels(result="refused")] == 1
    assert found["icosfl_forecast_evaluations_total", labels()] == 3
    assert found["process_resident_memory_bytes", labels()] > 1e6


def test_metrics_of_a_node_that_is_not_ready_hold_no_forecast(unready: Client) -> None:
    found = samples(unready)

    assert found["icosfl_forecast_ready", labels()] == 0
    assert not [name for name, _ in found if name in {"icosfl_forecast", "icosfl_store_rows", "icosfl_model_round"}]


def test_an_unknown_path_is_answered_with_the_paths_that_there_are(ready: Client) -> None:
    answer = ready.get("/forecast")

    assert answer.status_code == 404
    assert "/v1/forecast" in answer.json()["cure"]


def test_only_reading_is_allowed(ready: Client) -> None:
    answer = ready.request("POST", "/v1/forecast")

    assert answer.status_code == 405
    assert answer.json()["error"].startswith("POST /v1/forecast")


def test_a_defect_is_answered_in_json_and_without_a_trace() -> None:
    client = Client(Broken(READY, PAGE))

    answer = client.get("/v1/forecast")

    assert answer.status_code == 500
    assert "defect" in answer.json()["error"]
    assert "ZeroDivision" not in answer.text
