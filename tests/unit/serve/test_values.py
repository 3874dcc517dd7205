from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from icosfl.errors import DataError
from icosfl.serve.values import (
    Forecast,
    ForecastPage,
    ModelInfo,
    Readiness,
    StoreState,
    from_json,
    to_datetime,
    to_json,
)
from icosfl.train.scores import Errors

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MODEL = ModelInfo("ab12", "run-1", 3, ("worker1", "worker2"), NOON)


def page_with(value: float) -> ForecastPage:
    forecast = Forecast(
        series="cpu_usage",
        unit="%",
        horizon_seconds=60.0,
        time=NOON,
        last=4.5,
        model="ar",
        value=value,
        lower=None,
        upper=None,
        candidates={"global": 4.5, "ar": math.nan},
        errors={"global": Errors(mae=1.0, rmse=1.5, smape=12.0, mase=None)},
        skill={"ar": -math.inf},
        coverage=None,
        width=None,
    )
    return ForecastPage(True, (), (), "worker1", NOON, NOON, MODEL, 0.8, (forecast,), (), None)


def test_json_turns_numbers_that_are_not_finite_into_null() -> None:
    text = to_json(page_with(math.inf))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    forecast = json.loads(text, parse_constant=refuse)["forecasts"][0]
    assert forecast["value"] is None
    assert forecast["candidates"] == {"global": 4.5, "ar": None}
    assert forecast["skill"] == {"ar": None}


def test_a_page_comes_back_from_its_json() -> None:
    page = page_with(5.25)

    back = from_json(to_json(page), ForecastPage)

    assert back.forecasts[0].value == 5.25
    assert back.forecasts[0].time == NOON
    assert back.forecasts[0].errors == {"global": Errors(mae=1.0, rmse=1.5, smape=12.0, mase=None)}
    assert back.model == MODEL


def test_times_in_json_are_iso_8601_in_utc() -> None:
    text = to_json(Readiness(True, (), (), "worker1", StoreState(1, 2, NOON, 0.5), None))

    assert json.loads(text)["store"]["newest"] == "2026-03-01T12:00:00Z"


def test_another_services_json_is_refused_with_the_key_that_lacks() -> None:
    with pytest.raises(DataError, match="host"):
        from_json(b'{"ready": true, "reasons": [], "warnings": [], "store": null, "model": null}', Readiness)


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(DataError, match="not what a forecast service"):
        from_json(b"<html>", Readiness)


def test_a_time_in_nanoseconds_becomes_a_moment_in_utc() -> None:
    assert to_datetime(1_772_366_400_250_000_999) == datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
