"""The two threads that keep the forecasts new; the pages read what they know without ever waiting.

One thread follows the store and forecasts anew with each new row. The other one follows the directory of models,
loads a new one and measures it on the node's own rows before it takes over, and measures it again every so often.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from icosfl.config import ForecastConfig
from icosfl.errors import DataError, IcosflError
from icosfl.schema import Rows
from icosfl.serve.known import Known, forecast_page, readiness
from icosfl.serve.measure import Measured
from icosfl.serve.metrics import Counts
from icosfl.serve.models import ModelWatch
from icosfl.serve.predictor import Predictor
from icosfl.serve.values import ForecastPage, Readiness, to_datetime
from icosfl.store.base import Position, SeriesStore, StoreInfo

logger = logging.getLogger(__name__)


class Keeper:
    """Keeps the newest forecasts of a node; the `Source` of its pages.

    Args:
        config: The forecast service's configuration.
        opener: Opens the node's store; called again until it succeeds.
        now_ns: The time in nanoseconds since the epoch.
    """

    def __init__(
        self, config: ForecastConfig, opener: Callable[[], SeriesStore], now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._config = config
        self._node = config.node
        self._opener = opener
        self._now_ns = now_ns
        self._watch = ModelWatch(self._node)
        self._known = Known()
        self._changing = threading.Lock()
        self._opening = threading.Lock()
        self._store: SeriesStore | None = None
        self._position: Position | None = None
        self._measure_at = 0.0
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(turn,), name=turn.__name__.strip("_"), daemon=True)
            for turn in (self._follow_store, self._follow_models)
        ]

    def start(self) -> None:
        """Start to follow the store and the models."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> bool:
        """Stop following and close the store; return whether all ended within `timeout` seconds."""
        self._stopping.set()
        if self._store is not None:
            self._store.close()  # calls in flight end
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    def readiness(self) -> Readiness:
        """Return whether the node can forecast now, and if not, why."""
        return readiness(self._known, self._node, self._now_ns())

    def page(self) -> ForecastPage:
        """Return the forecasts that hold now, or why there are none."""
        return forecast_page(self._known, self._node, self._now_ns())

    def counts(self) -> Counts:
        """Return what was done since the start."""
        return self._known.counts

    def _repeat(self, turn: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            next_turn = time.monotonic() + self._config.refresh_seconds
            try:
                turn()
            except Exception:
                logger.exception("a defect; the service goes on with what it has")
            self._stopping.wait(max(next_turn - time.monotonic(), 0.0))

    def _open(self) -> SeriesStore:
        with self._opening:
            if self._store is None:
                self._store = self._opener()
            return self._store

    def _change(self, step: Callable[[Known], Known]) -> None:
        """Replace what is known by `step` of it, and forecast anew if rows, model or measure are others."""
        with self._changing:
            before, known = self._known, step(self._known)
            if (
                known.rows is not before.rows
                or known.model is not before.model
                or known.measured is not before.measured
            ):
                known = _with_outlook(known, self._now_ns())
            self._known = known

    def _follow_store(self) -> None:
        """One turn: wait for rows, read them, forecast from them."""
        model, trouble = self._known.model, self._known.store_trouble
        try:
            store = self._open()
            if self._position is not None and store.wait(self._position, self._config.refresh_seconds) is None:
                return
            window, info = store.window(model.rows_wanted if model else 1), store.info()
        except IcosflError as error:
            if self._stopping.is_set():
                return
            self._position = None
            _tell(trouble, text := str(error), "the store answers again")
            self._change(lambda known: _without_store(known, text))
            return
        _tell(trouble, "", "the store answers again")
        self._change(lambda known: _with_rows(known, info, window.rows, model))
        # rows that were asked for by another model's need may be too few: read again in the next turn
        self._position = window.position if self._known.model is model else None

    def _follow_models(self) -> None:
        """One turn: take a new model into service, or measure the present one when it is time."""
        before, present = self._known.model_trouble, self._known.model
        newer = self._watch.look(present.info.digest if present else None)
        if self._watch.trouble != before:
            _tell(before, trouble := self._watch.trouble, "the newest model can be used")
            self._change(lambda known: _with_model_trouble(known, trouble))
        model = newer or present
        if model is not None and (newer is not None or time.monotonic() >= self._measure_at):
            self._measure(model)

    def _measure(self, model: Predictor) -> None:
        """Measure the model on all rows of the store, and put it into service if it is not there yet."""
        rows, measured, trouble = None, None, ""
        try:
            rows = self._open().window().rows
            measured = model.measure(rows)
        except IcosflError as error:
            trouble = str(error)
        # without an answer of the store it is tried again in the next turn
        self._measure_at = 0.0 if rows is None else time.monotonic() + self._config.evaluate_seconds
        if model is not self._known.model:
            logger.info(
                "model %s of run %s, round %d takes over", model.info.digest[:12], model.info.run, model.info.round
            )
        newest = None if rows is None else rows.tail(model.rows_wanted)
        self._change(lambda known: _with_model(known, model, measured, trouble, newest))


def _tell(before: str, now: str, cured: str) -> None:
    """Log a trouble once when it comes, and once when it is gone."""
    if now and now != before:
        logger.warning("%s", now)
    elif before and not now:
        logger.info("%s", cured)


def _with_outlook(known: Known, now_ns: int) -> Known:
    if known.model is None or known.rows is None:
        return replace(known, outlook=None, outlook_trouble="")
    try:
        outlook = known.model.outlook(known.rows, known.measured)
    except DataError as error:
        return replace(known, outlook=None, outlook_trouble=str(error))
    return replace(known, outlook=outlook, outlook_trouble="", generated=to_datetime(now_ns))


def _without_store(known: Known, trouble: str) -> Known:
    counts = replace(known.counts, failed_reads=known.counts.failed_reads + 1)
    return replace(known, store_trouble=trouble, counts=counts)


def _with_rows(known: Known, info: StoreInfo, rows: Rows, asked_for: Predictor | None) -> Known:
    counts = replace(known.counts, reads=known.counts.reads + 1)
    fitting = rows if known.model is asked_for else known.rows
    return replace(known, info=info, rows=fitting, store_trouble="", counts=counts)


def _with_model_trouble(known: Known, trouble: str) -> Known:
    counts = replace(known.counts, refused_models=known.counts.refused_models + bool(trouble))
    return replace(known, model_trouble=trouble, counts=counts)


def _with_model(known: Known, model: Predictor, measured: Measured | None, trouble: str, rows: Rows | None) -> Known:
    fresh = known.model is not model
    counts = replace(
        known.counts,
        models=known.counts.models + fresh,
        evaluations=known.counts.evaluations + (measured is not None),
    )
    return replace(
        known,
        model=model,
        measured=measured or (model.handed if fresh else known.measured),
        measure_trouble=trouble,
        rows=rows if fresh and rows is not None else known.rows,
        counts=counts,
    )
