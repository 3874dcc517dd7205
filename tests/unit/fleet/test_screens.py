from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from icosfl.fleet.live import show_lines, show_table
from icosfl.fleet.outlook import Outlook, await_new_models, summarise
from icosfl.fleet.plain import plain
from icosfl.fleet.preflight import Check
from icosfl.fleet.report import Report, from_plain, to_plain
from icosfl.fleet.screens import (
    doctor_screen,
    duration,
    fleet_screen,
    forecast_screen,
    number,
    status_screen,
    watch_line,
    watch_screen,
    where_to_look,
)
from icosfl.fleet.status import FleetStatus, HostStatus, ServiceStatus
from icosfl.fleet.watch import Reading, Value
from icosfl.serve.values import Evaluation, Forecast, ForecastPage, ModelInfo, Omitted, Readiness, StoreState
from icosfl.train.baselines import NAMES
from icosfl.train.scores import Errors, Score, Scores, summary
from support.fleet import make_host

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MODEL = ModelInfo("ab12cd34ef567890", "run-1", 3, ("worker-1", "worker-2"), NOON)
STORE = StoreState(240, 600, NOON, 0.4)


def forecast_of(series: str, horizon: float, value: float, skill: float | None, unit: str = "%") -> Forecast:
    """A forecast that AR serves, off by 0.5, where the global model is off by 0.75."""
    return Forecast(
        series=series,
        unit=unit,
        horizon_seconds=horizon,
        time=NOON,
        last=12.5,
        model="ar",
        value=value,
        lower=value - 2,
        upper=value + 2,
        candidates={},
        errors={"global": Errors(0.7, 0.75, 5.0, 0.9), "ar": Errors(0.4, 0.5, 4.0, 0.8)},
        skill={"persistence": skill, "moving_average": 0.5, "seasonal_naive": None, "ar": -0.5, "nlinear": -12.34},
        coverage=0.78,
        width=4.0,
    )


def score_of(series: str, horizon: float, chosen: str, errors: dict[str, float], coverage: float | None) -> Score:
    """The score of RMSE by predictor."""
    found = {name: Errors(rmse, rmse, 1.0, None) for name, rmse in errors.items()}
    return Score(series, "%", round(horizon), horizon, chosen, 14, 14, found, errors, {}, None, None, coverage, None)


SCORES = Scores(90, 28, (score_of("cpu_usage", 1, "ar", {"global": 3.0, "ar": 2.0, "persistence": 4.0}, 0.75),))
FORECASTS = (forecast_of("cpu_usage", 1, 13.25, 0.21), forecast_of("cpu_usage", 300, 17.5, -0.4))
PAGE = ForecastPage(
    True,
    (),
    ("the newest row is old",),
    "worker-1",
    NOON,
    NOON,
    MODEL,
    0.8,
    FORECASTS,
    (Omitted("power", "this host has no meter"),),
    Evaluation(NOON, NOON, NOON, SCORES),
)
OUTLOOK = Outlook("worker-1", PAGE, STORE, "")
READING = Reading(
    "worker-1", 61, 112, NOON, 0.4, (Value("cpu_usage", "%", 12.5), Value("power", "W", None)), False, "61 of 112 rows"
)


def shown(what: RenderableType, width: int = 120) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def line_of(text: str, word: str) -> str:
    return " ".join(next(line for line in text.splitlines() if word in line).split())


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12.345, "%", "12.35 %"),
        (1234.5, "MiBy", "1234 MiB"),
        (123.45, "W", "123.5 W"),
        (0.42, "1", "0.42"),
        (0.0123, "1", "0.012"),
        (0.0, "W", "0.00 W"),
        (None, "W", "-"),
    ],
)
def test_numbers_are_short_and_carry_their_unit(value: float | None, unit: str, text: str) -> None:
    assert number(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (15, "15 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (300, "5 min"),
        (7800, "2 h 10 min"),
        (100000, "1 d 3 h"),
        (None, "-"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_forecast_stands_beside_last_value_interval_and_skill() -> None:
    text = shown(forecast_screen(OUTLOOK))

    assert line_of(text, "worker-1") == ("worker-1 240 rows stored model ab12cd34ef56, round 3 checked on 28 windows")
    assert line_of(text, "cpu_usage") == "cpu_usage 12.50 1 s AR 13.25 % 11.25…15.25 78% 0.50 +0.21 +0.50 - -0.50 -12"
    assert line_of(text, "5 min") == "5 min AR 17.50 % 15.50…19.50 78% 0.50 -0.40 +0.50 - -0.50 -12"
    assert line_of(text, "80%") == "80% skill of the global model vs"
    assert line_of(text, "series") == (
        "series last ahead served forecast interval held RMSE persist mean season AR NLin"
    )
    assert "power: not forecast: this host has no meter" in text
    assert "the newest row is old" in text


def test_a_warning_does_not_repeat_why_a_series_is_not_forecast() -> None:
    page = replace(PAGE, warnings=("power is not forecast: this host has no meter",))

    text = shown(forecast_screen(replace(OUTLOOK, page=page)))

    assert text.count("this host has no meter") == 1


def test_a_node_without_forecast_says_why() -> None:
    text = shown(forecast_screen(Outlook("worker-1", None, None, "no model yet (icosfl train)")))

    assert "no forecast: no model yet (icosfl train)" in text


@pytest.mark.parametrize(
    ("width", "horizon", "value", "line"),
    [
        (100, 300, 12345.6, "5 min persist 12346 MiB 12344…12348 78% 2346 -123 +0.50 - -0.50 -12"),
        (120, 90, 123456.7, "1 min 30 s persist 123457 MiB 123455…123459 78% 2346 -123 +0.50 - -0.50 -12"),
    ],
)
def test_a_screen_of_forecasts_is_whole_in_its_width(width: int, horizon: float, value: float, line: str) -> None:
    wide = replace(
        forecast_of("memory_usage", horizon, value, -123.4, "MiBy"),
        last=12345.6,
        model="persistence",
        errors={"persistence": Errors(1234.5, 2345.6, 5.0, None)},
    )
    outlook = replace(OUTLOOK, page=replace(PAGE, forecasts=(FORECASTS[0], wide)))

    lines = [each.rstrip() for each in shown(forecast_screen(outlook), width).splitlines()]

    assert max(map(len, lines)) <= width
    assert line_of("\n".join(lines), "memory_usage") == f"memory_usage 12346 {line}"


def test_after_a_run_a_table_tells_of_all_nodes_how_far_off_each_predictor_is() -> None:
    other = score_of(
        "cpu_usage", 1, "global", {"global": 1.0, "ar": 2.0, "persistence": 1.0, "seasonal_naive": 3.0}, 0.85
    )
    page = replace(PAGE, evaluation=Evaluation(NOON, NOON, NOON, Scores(90, 28, (other,))))
    silent = Outlook("worker-3", None, None, "its service does not answer")

    summaries = summarise([OUTLOOK, Outlook("worker-2", page, STORE, ""), silent])
    text = shown(fleet_screen(summaries), 100)

    assert line_of(text, "series") == "series ahead held global served persist mean season AR NLin nodes serve"
    # the global model is off by 3 and 1, what is served by 2 and 1; only one node could measure the seasonal forecast
    assert line_of(text, "cpu_usage") == "cpu_usage 1 s 80% 2.00 1.50 2.50 - - 2.00 - global 1, AR 1"
    assert line_of(text, "in %") == "in % 50% - 100% 50% -"
    assert [(each.nodes, each.chosen) for each in summaries] == [
        (2, {"global": 1, "ar": 1, "persistence": 0, "seasonal_naive": 0})
    ]
    assert plain(summaries)[0]["means"]["served"]["rmse"] == 1.5


def test_a_table_of_all_nodes_fits_100_columns() -> None:
    errors = dict.fromkeys(("global", *NAMES), 12345.6)
    names = ("global", "persistence", "seasonal_naive", "ar")
    scores = {
        f"worker-{index}": Scores(9, 9, (replace(score_of("memory_usage", 300, name, errors, 1.0), unit="MiBy"),))
        for index, name in enumerate(names)
    }

    text = shown(fleet_screen(summary(scores)), 100)

    assert line_of(text, "memory_usage").startswith("memory_usage 5 min 100% 12346 12346 12346 12346 12346 12346 12346")
    assert "in MiB" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def test_without_a_measurement_the_table_of_all_nodes_says_so() -> None:
    assert "no node has measured" in shown(fleet_screen(()))


def test_a_forecast_that_was_not_checked_has_neither_interval_nor_error() -> None:
    raw = replace(FORECASTS[0], model="global", lower=None, upper=None, errors={}, skill={}, coverage=None, width=None)

    text = shown(
        forecast_screen(replace(OUTLOOK, page=replace(PAGE, evaluation=None, interval=None, forecasts=(raw,))))
    )

    assert line_of(text, "cpu_usage") == "cpu_usage 12.50 1 s global 13.25 % - - - - - - - -"
    assert "checked on" not in text


def test_services_are_shown_with_state_port_pid_and_problem() -> None:
    services = (
        ServiceStatus("redis", "RUNNING", "", 77, 90, {"redis": 6400}, "/srv/log/redis.log"),
        ServiceStatus("otlp_bridge", "BACKOFF", "Exited too quickly", 0, 0, {"otlp": 4400, "metrics": 9500}, "/l"),
    )
    host = HostStatus(
        "worker-1", ("workers",), "down", "x", services, Readiness(True, (), (), "worker-1", STORE, MODEL)
    )

    text = shown(status_screen(FleetStatus("lab", (host,))))

    assert line_of(text, "240 rows") == "worker-1 down 240 rows, newest 0.4 s old · model ab12cd34ef56, round 3"
    assert line_of(text, "redis") == "redis RUNNING 77 1 min 30 s 6400"
    assert line_of(text, "otlp_bridge") == "otlp_bridge BACKOFF - - 4400, 9500 Exited too quickly"
    assert "lab: not green: worker-1" in text


def test_a_stopped_host_says_how_to_start_it() -> None:
    service = ServiceStatus("redis", "NOT RUNNING", "", 0, 0, {"redis": 6400}, "/l")
    host = HostStatus("worker-1", (), "down", "its services are stopped: icosfl up", (service,), None)

    text = shown(status_screen(FleetStatus("lab", (host,))))

    assert line_of(text, "stopped") == "worker-1 down its services are stopped: icosfl up"
    assert line_of(text, "redis") == "redis NOT RUNNING - - 6400"


def test_status_shows_what_a_service_says_of_itself_and_rather_what_is_wrong_with_it() -> None:
    well = ServiceStatus("retraining", "RUNNING", "", 5, 9, {}, "/l", "next: training tomorrow")
    ill = replace(well, name="other", state="BACKOFF", problem="it died")

    text = shown(status_screen(FleetStatus("lab", (HostStatus("a", (), "down", "", (well, ill), None),))))

    assert text.count("next: training tomorrow") == 1
    assert "it died" in text


def test_a_host_without_new_rows_says_why_though_its_services_run() -> None:
    service = ServiceStatus("redis", "RUNNING", "", 77, 90, {"redis": 6400}, "/l")
    readiness = Readiness(True, (), (), "worker-1", STORE, MODEL)
    host = HostStatus("worker-1", (), "no new rows", "its newest row is 45 s old", (service,), readiness)

    text = shown(status_screen(FleetStatus("lab", (host,))))

    assert line_of(text, "45 s") == "worker-1 no new rows its newest row is 45 s old"


def test_a_green_fleet_says_so() -> None:
    assert "lab: green" in shown(status_screen(FleetStatus("lab", (HostStatus("a", (), "green", "", (), None),))))


def test_a_watch_shows_rows_values_units_and_what_is_missing() -> None:
    ready = replace(READING, host="control", rows=120, ready=True, reason="")

    text = shown(watch_screen([ready, READING]))

    assert line_of(text, "61/112").startswith("worker-1 61/112")
    assert line_of(text, "61/112").endswith("0.4 s 12.50 % - 61 of 112 rows")
    assert line_of(text, "control").endswith("12.50 % - ready")
    assert watch_line([ready, READING]) == "rows: control 120/112 ready · worker-1 61/112"


def test_a_watch_of_silent_nodes_can_be_shown() -> None:
    assert "gone" in shown(watch_screen([Reading("a", 0, 9, None, None, (), False, "gone")]))
    shown(watch_screen([]))


def test_a_log_gets_a_line_now_and_then_and_the_last_table() -> None:
    console = Console(file=StringIO(), width=120)
    clock = iter([0.0, 0.0, 0.0, 3.0, 12.0, 12.0, 13.0])

    show_lines(console, [[replace(READING, rows=count)] for count in (1, 2, 3, 4)], lambda: next(clock))

    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if line.startswith("rows:")] == ["rows: worker-1 1/112", "rows: worker-1 3/112"]
    assert "4/112" in lines[-1]


def test_a_terminal_gets_one_table_that_renews_itself() -> None:
    console = Console(file=StringIO(), width=120, force_terminal=True)

    show_table(console, [[READING], [replace(READING, rows=62)]])

    assert isinstance(console.file, StringIO)
    assert "62/112" in console.file.getvalue()


def test_a_failed_check_shows_its_cure_and_a_good_one_does_not() -> None:
    text = shown(doctor_screen([Check("disk", "ok", "plenty", "unused"), Check("ports", "failed", "busy", "stop it")]))

    assert "cure: stop it" in text
    assert "unused" not in text


def test_where_to_look_names_the_pages_of_each_node(tmp_path: Path) -> None:
    host = make_host("worker-1", tmp_path)
    url = f"http://127.0.0.1:{host.ports['forecast']}"

    text = shown(where_to_look([host]), width=200)

    assert f"{url}/v1/forecast" in text
    assert "/metrics" in text
    assert "worker-1/log" in text


def test_where_to_look_names_the_journal_of_a_host_over_ssh(tmp_path: Path) -> None:
    host = make_host("worker-1", tmp_path, connection="ssh", runtime="systemd")

    text = shown(where_to_look([host]), width=200)

    assert "on the host itself" in text
    assert "journalctl -u 'icosfl*'" in text


def test_where_to_look_names_dockers_logs_of_a_host_with_containers(tmp_path: Path) -> None:
    host = make_host("worker-1", tmp_path, connection="ssh", runtime="docker")

    assert "docker logs icosfl-SERVICE" in shown(where_to_look([host]), width=200)


def test_a_host_that_cannot_be_asked_is_shown_with_reason_and_cure() -> None:
    host = HostStatus("edge-01", (), "unreachable", "it refuses our SSH key", (), None, "put our key there")

    text = shown(status_screen(FleetStatus("lab", (host,))))

    assert "edge-01  unreachable" in text
    assert "it refuses our SSH key" in text
    assert "cure: put our key there" in text


def test_values_become_json_with_their_properties() -> None:
    found = plain(
        {"fleet": FleetStatus("lab", ()), "bad": math.nan, "at": NOON, "path": Path("/srv"), "some": (1, "a", True)}
    )

    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "fleet": {"environment": "lab", "hosts": [], "green": True},
        "bad": None,
        "at": "2026-03-01T12:00:00+00:00",
        "path": "/srv",
        "some": [1, "a", True],
    }


def with_digest(digest: str) -> Outlook:
    return Outlook("worker-1", replace(PAGE, model=replace(MODEL, digest=digest)), STORE, "")


def test_forecasts_of_another_host_come_over_the_wire_as_they_were() -> None:
    sent = json.loads(json.dumps(to_plain(Report(outlook=OUTLOOK)), allow_nan=False))

    assert from_plain(sent).outlook == OUTLOOK


def test_new_models_are_awaited_until_each_node_answers_with_one() -> None:
    looks = iter([(with_digest("old"),), (with_digest("old"),), (with_digest("new"),)])
    waits: list[float] = []

    found = await_new_models(lambda: next(looks), {"worker-1": "old"}, 30, wait=waits.append, clock=lambda: 0.0)

    assert found[0].digest == "new"
    assert len(waits) == 2


def test_a_node_that_was_left_out_ends_the_wait_with_its_old_model() -> None:
    clock = iter(range(100))

    found = await_new_models(
        lambda: (with_digest("old"),), {"worker-1": "old"}, 5, wait=lambda _: None, clock=lambda: float(next(clock))
    )

    assert found[0].digest == "old"


def test_a_node_that_does_not_answer_is_not_waited_for() -> None:
    silent = (Outlook("worker-1", None, None, "silent"),)

    assert await_new_models(lambda: silent, {}, 30, wait=pytest.fail, clock=lambda: 0.0) == silent


def test_a_run_that_handed_out_the_model_of_before_again_is_not_waited_for() -> None:
    look = lambda: (with_digest("old"),)  # noqa: E731

    found = await_new_models(look, {"worker-1": "old"}, 30, handed_out="old", wait=pytest.fail, clock=lambda: 0.0)

    assert found[0].digest == "old"
