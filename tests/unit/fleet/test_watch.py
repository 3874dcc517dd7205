from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from icosfl.config import run_config, schema_of
from icosfl.errors import ConfigError, NotReady, StoreUnavailable
from icosfl.fleet import afar
from icosfl.fleet.everywhere import Watch
from icosfl.fleet.place import place_of
from icosfl.fleet.watch import SILENT, Patience, Reading, Value, Watched, newest_values, readings, settings_of
from icosfl.schema import Rows
from icosfl.store.base import Window
from icosfl.store.memory import MemoryStore
from support.fleet import SERIES, make_fleet, make_host

PROJECT = Path(__file__).parents[3]
START = 1_800_000_000
SCHEMA = schema_of(SERIES)


def rows(count: int, step: int = 1) -> Rows:
    times = (START + step * np.arange(count, dtype=np.int64)) * 1_000_000_000
    values = np.column_stack([np.arange(count) % 7, np.arange(count) % 5, np.full(count, np.nan)]).astype(np.float64)
    return Rows(times, values)


def watched(tmp_path: Path, store: MemoryStore) -> Watched:
    place = place_of(make_host("worker-1", tmp_path))
    return Watched(place, settings_of(place, run_config(PROJECT)), store)


def filled(count: int, step: int = 1) -> MemoryStore:
    store = MemoryStore(SCHEMA, 1000)
    if count:
        store.append(rows(count, step))
    return store


def now_after(count: int) -> datetime:
    return datetime.fromtimestamp(START + count - 1, UTC) + timedelta(seconds=0.5)


def test_an_empty_store_is_not_ready_and_has_no_age(tmp_path: Path) -> None:
    reading = watched(tmp_path, filled(0)).read(now_after(1))

    assert (reading.rows, reading.newest, reading.age_seconds, reading.ready) == (0, None, None, False)
    assert reading.reason == "there is no row yet"


def test_a_store_with_too_few_rows_says_how_many_are_needed(tmp_path: Path) -> None:
    node = watched(tmp_path, filled(5))

    reading = node.read(now_after(5))

    assert not reading.ready
    assert reading.reason == f"5 of {node.needed} rows"
    assert reading.age_seconds == pytest.approx(0.5)


def test_a_node_is_ready_when_training_would_take_it(tmp_path: Path) -> None:
    needed = watched(tmp_path, filled(0)).needed

    reading = watched(tmp_path, filled(needed)).read(now_after(needed))

    assert reading.ready
    assert reading.reason == ""


def test_rows_full_of_gaps_do_not_make_a_node_ready(tmp_path: Path) -> None:
    needed = watched(tmp_path, filled(0)).needed

    reading = watched(tmp_path, filled(needed, step=10)).read(now_after(10 * needed))

    assert reading.rows == needed
    assert not reading.ready
    assert reading.reason


def test_the_newest_value_of_each_series_is_shown_with_its_unit() -> None:
    found = Rows(rows(3).times, np.array([[1.0, np.nan, np.nan], [2.0, 5.0, np.nan], [np.nan, 6.0, np.inf]]))

    assert newest_values(found, SCHEMA) == (
        Value("cpu_usage", "%", 2.0),
        Value("memory_usage", "MiBy", 6.0),
        Value("power", "W", None),
    )


class SilentStore(MemoryStore):
    def window(self, last: int | None = None) -> Window:
        raise StoreUnavailable("gone", cure="look")


def test_a_store_that_does_not_answer_is_a_reason_and_no_error(tmp_path: Path) -> None:
    reading = watched(tmp_path, SilentStore(SCHEMA, 10)).read(now_after(1))

    assert (reading.ready, reading.reason) == (False, SILENT)


def test_every_host_of_the_fleet_is_read_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = afar.Trouble("unreachable", "it does not answer", "see whether it runs")
    monkeypatch.setattr("icosfl.fleet.everywhere.ask_afar", lambda _fleet, hosts, _pages: {hosts[0].name: trouble})
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    fleet = make_fleet(tmp_path, make_host("control", tmp_path), make_host("edge-01", tmp_path, connection="ssh"))

    with Watch(fleet) as watch:
        found = watch.read()

    assert [(reading.host, reading.reason) for reading in found] == [
        ("control", "there is no row yet"),
        ("edge-01", "it does not answer"),
    ]


def test_patience_grows_with_the_rows_that_are_needed(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)

    with Watch(make_fleet(tmp_path, make_host("control", tmp_path))) as watch:
        assert watch.patience_seconds() == 60 + 2 * watch.read()[0].needed


def test_the_fleets_values_override_the_apps(tmp_path: Path) -> None:
    place = place_of(make_host("worker-1", tmp_path, training={"window": "9s"}))

    assert settings_of(place, run_config(PROJECT)).window_seconds == 9.0


def test_a_wrong_value_of_the_fleet_is_named(tmp_path: Path) -> None:
    place = place_of(make_host("worker-1", tmp_path, training={"window": "soon"}))

    with pytest.raises(ConfigError, match="window"):
        settings_of(place, run_config(PROJECT))


def test_a_project_without_run_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"tool\.flwr\.app\.config"):
        run_config(tmp_path)


def reading(host: str, *, ready: bool) -> Reading:
    return Reading(host, 1, 2, None, None, (), ready, "" if ready else "1 of 2 rows")


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_ends_with_the_reading_in_which_all_are_ready() -> None:
    clock = Clock()
    answers = iter([(False, False), (True, False), (True, True), (True, True)])

    def read() -> tuple[Reading, ...]:
        return tuple(reading(host, ready=ready) for host, ready in zip("ab", next(answers), strict=True))

    found = list(readings(read, Patience(1.0, True, 60.0), wait=clock.wait, clock=clock))

    assert [sum(each.ready for each in one) for one in found] == [0, 1, 2]
    assert clock.now == 2.0


def test_waiting_too_long_names_who_lacks_what() -> None:
    clock = Clock()
    found = readings(
        lambda: (reading("a", ready=True), reading("b", ready=False)),
        Patience(1.0, True, 3.0),
        wait=clock.wait,
        clock=clock,
    )

    with pytest.raises(NotReady, match=r"after 3 s: b: 1 of 2 rows \(") as caught:
        list(found)

    assert caught.value.cure
    assert clock.now == 3.0


def test_a_watch_that_waits_for_nothing_ends_in_peace_when_its_time_is_over() -> None:
    clock = Clock()

    found = readings(lambda: (reading("a", ready=False),), Patience(1.0, False, 2.0), wait=clock.wait, clock=clock)

    assert len(list(found)) == 3


def test_watching_goes_on_although_all_are_ready() -> None:
    clock = Clock()
    found = readings(lambda: (reading("a", ready=True),), Patience(1.0, False, None), wait=clock.wait, clock=clock)

    assert [next(found)[0].host for _ in range(5)] == ["a"] * 5
