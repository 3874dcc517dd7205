from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icosfl.config import ForecastConfig, SeriesConfig
from icosfl.errors import NotReady, StoreUnavailable
from icosfl.schema import Rows
from icosfl.serve.models import ModelWatch
from icosfl.serve.predictor import Predictor
from icosfl.serve.state import Keeper
from icosfl.store.base import Position, SeriesStore, StoreInfo, Window
from icosfl.store.memory import MemoryStore
from icosfl.train.artifact import BEST, LATEST, Artifact, point_best, save

MakeRows = Callable[..., Rows]
MakeArtifact = Callable[..., Artifact]
Until = Callable[[Callable[[], bool]], None]

SECOND = 1_000_000_000


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


class Faulty(SeriesStore):
    """A store whose calls fail while `broken`, and hang while `blocked`, until `let_go`."""

    def __init__(self, inner: MemoryStore) -> None:
        self.schema = inner.schema
        self.inner = inner
        self.broken = False
        self.blocked = False
        self.hangs = threading.Event()
        self.let_go = threading.Event()

    def _pass(self) -> None:
        if self.blocked:
            self.hangs.set()
            self.let_go.wait(60)
        if self.broken:
            raise StoreUnavailable("the store at 127.0.0.1:1 does not answer", cure="start it")

    def append(self, rows: Rows) -> Position:
        return self.inner.append(rows)

    def window(self, last: int | None = None) -> Window:
        self._pass()
        return self.inner.window(last)

    def wait(self, after: Position, timeout: float) -> Position | None:
        self._pass()
        return self.inner.wait(after, timeout)

    def info(self) -> StoreInfo:
        self._pass()
        return self.inner.info()

    def saved(self, *, soon: bool = False) -> Position:
        self._pass()
        return self.inner.saved(soon=soon)

    def close(self) -> None:
        self.inner.close()


@contextmanager
def running(keeper: Keeper) -> Iterator[Keeper]:
    keeper.start()
    try:
        yield keeper
    finally:
        assert keeper.stop(20)


@pytest.fixture
def rows(make_rows: MakeRows) -> Rows:
    return make_rows(200)


@pytest.fixture
def clock(rows: Rows) -> Clock:
    return Clock(int(rows.times[-1]) + 2 * SECOND)


@pytest.fixture
def keeper(config: ForecastConfig, store: MemoryStore, clock: Clock) -> Keeper:
    return Keeper(config, lambda: store, clock)


def test_with_rows_and_a_model_there_are_measured_forecasts(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    make_artifact: MakeArtifact,
    until: Until,
) -> None:
    artifact = make_artifact()
    save(artifact, config.node.models_dir)
    store.append(rows)

    with running(keeper):
        until(lambda: keeper.readiness().ready)
        page = keeper.page()

    assert page.model is not None
    assert page.model.digest == artifact.digest
    assert page.model.nodes == ("worker1", "worker2")
    assert len(page.forecasts) == 4
    assert page.interval == 0.8
    assert page.evaluation is not None
    assert all(item.lower is not None for item in page.forecasts)
    assert page.warnings == ("power is not forecast: this node has no value of it in the newest 10 rows",)


def test_without_a_model_the_reason_says_so(keeper: Keeper, store: MemoryStore, rows: Rows, until: Until) -> None:
    store.append(rows)

    with running(keeper):
        until(lambda: keeper.readiness().store is not None)
        readiness = keeper.readiness()

    assert not readiness.ready
    assert len(readiness.reasons) == 1
    assert "no model yet in" in readiness.reasons[0]
    assert readiness.store is not None
    assert (readiness.store.rows, readiness.store.capacity, readiness.store.age_seconds) == (200, 1000, 2.0)


def test_a_new_model_takes_over_without_a_restart(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    make_artifact: MakeArtifact,
    until: Until,
) -> None:
    first, second = make_artifact(), make_artifact(round_number=2)
    save(first, config.node.models_dir)
    store.append(rows)

    def digest() -> str:
        model = keeper.page().model
        return model.digest if model else ""

    with running(keeper):
        until(lambda: digest() == first.digest)
        save(second, config.node.models_dir)
        until(lambda: digest() == second.digest)
        page = keeper.page()

    assert page.ready
    assert page.model is not None
    assert page.model.round == 2
    assert all(item.lower is not None for item in page.forecasts)
    assert keeper.counts().models == 2


def test_what_a_round_makes_is_not_served_before_it_is_handed_out(
    config: ForecastConfig, make_artifact: MakeArtifact
) -> None:
    best, of_a_round = make_artifact(), make_artifact(round_number=2)
    here, watch = config.node.models_dir, ModelWatch(config.node)
    save(best, here)
    point_best(best, here)
    save(of_a_round, here)

    during = watch.look(None)
    assert during is not None
    assert during.info.digest == best.digest
    assert watch.look(best.digest) is None
    point_best(of_a_round, here)
    after = watch.look(best.digest)

    assert after is not None
    assert after.info.digest == of_a_round.digest


def test_a_damaged_best_leaves_the_present_model_and_is_said_until_it_is_whole(
    config: ForecastConfig, make_artifact: MakeArtifact
) -> None:
    first, second = make_artifact(), make_artifact(round_number=2)
    here, watch = config.node.models_dir, ModelWatch(config.node)
    save(second, here)
    (here / BEST).write_text("?", encoding="utf-8")

    assert watch.look(first.digest) is None
    assert "best: does not name a model file" in watch.trouble
    point_best(second, here)
    found = watch.look(first.digest)

    assert found is not None
    assert (found.info.digest, watch.trouble) == (second.digest, "")


def test_a_model_that_memory_did_not_suffice_for_is_tried_again(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    make_artifact: MakeArtifact,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure, failures = Predictor.measure, [MemoryError()]

    def short_at_first(self: Predictor, *arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return measure(self, *arguments)

    monkeypatch.setattr(Predictor, "measure", short_at_first)
    save(make_artifact(), config.node.models_dir)
    store.append(rows)

    with running(keeper):
        until(lambda: keeper.page().ready)

    assert not failures


def test_a_damaged_model_is_kept_away_and_the_old_one_goes_on(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    make_artifact: MakeArtifact,
    until: Until,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = make_artifact(), make_artifact(round_number=2)
    here = config.node.models_dir
    save(first, here)
    elsewhere = save(second, tmp_path / "elsewhere")
    whole = elsewhere.read_bytes()
    store.append(rows)

    with caplog.at_level(logging.INFO, "icosfl"), running(keeper):
        until(lambda: keeper.page().ready)
        (here / elsewhere.name).write_bytes(whole[: len(whole) // 2])
        (elsewhere.parent / LATEST).replace(here / LATEST)
        until(lambda: any("was not taken" in text for text in keeper.readiness().warnings))
        damaged = keeper.page()
        (here / elsewhere.name).write_bytes(whole)
        until(lambda: digest_is(keeper, second))
        cured = keeper.readiness()

    assert damaged.ready
    assert damaged.model is not None
    assert damaged.model.digest == first.digest
    assert "run-1-round-0002.npz" in damaged.warnings[0]
    assert cured.ready
    assert not any("was not taken" in text for text in cured.warnings)
    assert sum("run-1-round-0002.npz" in record.message for record in caplog.records) == 1


def digest_is(keeper: Keeper, artifact: Artifact) -> bool:
    model = keeper.page().model
    return model is not None and model.digest == artifact.digest


def test_a_model_for_other_series_is_named_as_the_reason(
    config: ForecastConfig, store: MemoryStore, rows: Rows, clock: Clock, make_artifact: MakeArtifact, until: Until
) -> None:
    save(make_artifact(), config.node.models_dir)
    other = replace(config.node, series=(SeriesConfig("cpu_usage", "%"), SeriesConfig("memory_usage", "MiBy")))
    keeper = Keeper(replace(config, node=other), lambda: store, clock)

    with running(keeper):
        until(lambda: "power in W, this node keeps it not at all" in " ".join(keeper.readiness().reasons))

    assert not keeper.page().ready


def test_too_few_rows_are_a_reason_that_goes_away_with_rows(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    clock: Clock,
    make_artifact: MakeArtifact,
    until: Until,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(Rows(rows.times[:4], rows.values[:4]))
    clock.now_ns = int(rows.times[3])

    with running(keeper):
        until(lambda: "4 of the 10 rows" in " ".join(keeper.readiness().reasons))
        assert keeper.page().forecasts == ()
        store.append(Rows(rows.times[4:12], rows.values[4:12]))
        until(lambda: keeper.page().ready)
        page = keeper.page()

    assert any("has not been checked on this node yet" in text for text in page.warnings)
    assert page.interval is None
    assert page.forecasts[0].lower is None


def test_forecasts_follow_the_newest_row(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    make_artifact: MakeArtifact,
    until: Until,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(Rows(rows.times[:199], rows.values[:199]))

    def last_memory() -> float:
        return next((item.last for item in keeper.page().forecasts if item.series == "memory_usage"), 0.0)

    with running(keeper):
        until(lambda: last_memory() == 1198)
        store.append(Rows(rows.times[199:], rows.values[199:]))
        until(lambda: last_memory() == 1199)


def test_rows_that_grow_old_end_the_readiness_although_nothing_happens(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    clock: Clock,
    make_artifact: MakeArtifact,
    until: Until,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(rows)

    with running(keeper):
        until(lambda: keeper.page().ready)
        clock.now_ns = int(rows.times[-1]) + 31 * SECOND
        page, readiness = keeper.page(), keeper.readiness()

    assert not page.ready
    assert page.forecasts == ()
    assert readiness.reasons == page.reasons
    assert "the newest row is 31 s old, more than 30 s" in page.reasons[0]


def test_rows_from_the_future_are_not_forecast_from(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    clock: Clock,
    make_artifact: MakeArtifact,
    until: Until,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(rows)
    clock.now_ns = int(rows.times[-1]) - 40 * SECOND

    with running(keeper):
        until(lambda: keeper.readiness().model is not None and keeper.readiness().store is not None)

        assert "40 s in the future" in keeper.readiness().reasons[0]


def test_an_empty_store_is_named(keeper: Keeper, until: Until) -> None:
    with running(keeper):
        until(lambda: "the store is empty" in " ".join(keeper.readiness().reasons))


def test_a_store_that_fails_is_a_reason_until_it_answers_again(
    config: ForecastConfig,
    store: MemoryStore,
    rows: Rows,
    clock: Clock,
    make_artifact: MakeArtifact,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(rows)
    faulty = Faulty(store)
    keeper = Keeper(config, lambda: faulty, clock)

    with caplog.at_level(logging.INFO, "icosfl"), running(keeper):
        until(lambda: keeper.page().ready)
        faulty.broken = True
        until(lambda: not keeper.page().ready)
        assert keeper.readiness().reasons == ("the store at 127.0.0.1:1 does not answer (start it)",)
        failures = keeper.counts().failed_reads
        until(lambda: keeper.counts().failed_reads > failures + 2)
        faulty.broken = False
        until(lambda: keeper.page().ready)

    told = [record.message for record in caplog.records if "does not answer" in record.message]
    assert len(told) == 1
    assert "the store answers again" in caplog.messages


def test_a_store_that_cannot_be_opened_yet_is_opened_later(
    config: ForecastConfig, store: MemoryStore, rows: Rows, clock: Clock, make_artifact: MakeArtifact, until: Until
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(rows)
    up = threading.Event()

    def opener() -> SeriesStore:
        if not up.is_set():
            raise StoreUnavailable("no store yet")
        return store

    keeper = Keeper(config, opener, clock)

    with running(keeper):
        until(lambda: keeper.readiness().model is not None and "no store yet" in keeper.readiness().reasons)
        up.set()
        until(lambda: keeper.page().ready)
        until(lambda: keeper.page().interval is not None)


def test_a_store_that_hangs_blocks_no_answer(
    config: ForecastConfig, store: MemoryStore, rows: Rows, clock: Clock, make_artifact: MakeArtifact, until: Until
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(rows)
    faulty = Faulty(store)
    keeper = Keeper(config, lambda: faulty, clock)

    with running(keeper):
        until(lambda: keeper.page().ready)
        faulty.blocked = True
        clock.now_ns += 60 * SECOND
        assert faulty.hangs.wait(20)
        try:
            assert "62 s old" in keeper.readiness().reasons[0]
            assert not keeper.stop(0.1)
        finally:
            faulty.let_go.set()


def test_stopping_ends_a_wait_for_rows(
    config: ForecastConfig, store: MemoryStore, rows: Rows, clock: Clock, until: Until
) -> None:
    store.append(rows)
    keeper = Keeper(replace(config, refresh_seconds=3600.0), lambda: store, clock)
    keeper.start()
    until(lambda: keeper.counts().reads == 1)

    assert keeper.stop(20)
    assert keeper.readiness().reasons[-1] != "the store is closed"


def test_the_model_is_measured_again_as_time_goes_by(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    make_artifact: MakeArtifact,
    until: Until,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(Rows(rows.times[:150], rows.values[:150]))

    with running(keeper):
        until(lambda: keeper.page().evaluation is not None)
        first = keeper.page().evaluation
        store.append(Rows(rows.times[150:], rows.values[150:]))
        until(lambda: keeper.page().evaluation != first)
        later = keeper.page().evaluation

    assert first is not None
    assert later is not None
    assert later.cutoff > first.cutoff
    assert later.until > first.until


def test_a_measurement_that_fails_leaves_the_one_before_and_says_so(
    config: ForecastConfig,
    store: MemoryStore,
    keeper: Keeper,
    rows: Rows,
    make_artifact: MakeArtifact,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(rows)

    def refuse(*_: Any) -> Any:
        raise NotReady("3 rows give 0 windows")

    with running(keeper):
        until(lambda: keeper.page().evaluation is not None)
        monkeypatch.setattr(Predictor, "measure", refuse)
        until(lambda: any("could not be checked anew on this node: 3 rows" in text for text in keeper.page().warnings))
        page = keeper.page()

    assert page.evaluation is not None
    assert all(item.lower is not None for item in page.forecasts)


def test_a_sensor_that_hangs_is_a_warning_of_page_and_readiness(
    config: ForecastConfig, store: MemoryStore, keeper: Keeper, rows: Rows, make_artifact: MakeArtifact, until: Until
) -> None:
    rows.values[-20:, 0] = 7.5
    save(make_artifact(), config.node.models_dir)
    store.append(rows)

    with running(keeper):
        until(lambda: keeper.page().ready)
        told = (keeper.page().warnings, keeper.readiness().warnings)

    text = "cpu_usage has the same value, 7.5 %, in all of its newest 10 rows: see whether its sensor hangs"
    assert all(text in warnings for warnings in told)


def test_a_defect_is_logged_and_the_service_goes_on(
    config: ForecastConfig,
    store: MemoryStore,
    rows: Rows,
    clock: Clock,
    make_artifact: MakeArtifact,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(make_artifact(), config.node.models_dir)
    store.append(rows)
    calls = iter([ZeroDivisionError("a defect")])

    def opener() -> SeriesStore:
        for error in calls:
            raise error
        return store

    keeper = Keeper(config, opener, clock)

    with running(keeper):
        until(lambda: keeper.page().ready)

    assert any(record.exc_info for record in caplog.records)
