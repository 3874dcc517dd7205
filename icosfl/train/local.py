"""From a node's rows to what is trained and measured on, or to the reason why that cannot be yet. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import NotReady, SchemaMismatch
from icosfl.process.clean import Grid, bridge_gaps, to_grid
from icosfl.process.windows import (
    LatestWindow,
    Windows,
    count_whole,
    latest_window,
    make_windows,
    rows_needed,
    split_by_time,
)
from icosfl.schema import Rows, Schema
from icosfl.train.plan import Plan, Prepared, Survey
from icosfl.train.settings import TrainSettings

__all__ = [
    "Plan",
    "Prepared",
    "Survey",
    "cut",
    "cutoff_of",
    "least_held_out_windows",
    "newest_window",
    "prepare",
    "rows_for_training",
    "select",
    "survey",
]

# A node has a series when its training part holds at least this share of the windows that its best series gives.
PRESENT_SHARE = 0.5

# A share such as 0.9 is not exact in binary: 10 * (1 - 0.9) must count as 1.
ROUNDING = 1e-9

_CURE = "look whether the host's metrics reach its store: icosfl status"


def rows_for_training(plan: Plan, settings: TrainSettings) -> int:
    """How few rows without a gap make a node ready: enough windows on both sides of the cutoff."""
    share = settings.train_fraction
    train = rows_needed(plan.window, plan.horizons, settings.min_windows)
    held_out = plan.horizons[-1] - plan.horizons[0] + least_held_out_windows(settings)
    for_train = math.ceil(train / share - ROUNDING)
    for_held_out = math.floor((held_out - 1) / (1 - share) + ROUNDING) + 1
    return max(for_train, for_held_out)


def least_held_out_windows(settings: TrainSettings) -> int:
    """Held-out windows without which a node sits out: as many to the training windows as the fraction says."""
    share = settings.train_fraction
    return max(math.ceil(settings.min_windows * (1 - share) / share - ROUNDING), 1)


def cutoff_of(rows: Rows, train_fraction: float) -> int:
    """The time of the last row of the training part, in nanoseconds since the epoch.

    Raises:
        NotReady: there is no row.
    """
    if len(rows) == 0:
        raise NotReady("there is no row yet", cure=_CURE)
    count = max(math.floor(len(rows) * train_fraction + ROUNDING), 1)
    return int(rows.times[count - 1])


def survey(rows: Rows, schema: Schema, plan: Plan, settings: TrainSettings) -> Survey:
    """Look at all rows of a store of this schema before a run: what is there, and whether it is enough.

    Raises:
        SchemaMismatch: the schema lacks a series of the plan.
    """
    if len(rows) == 0:
        return Survey(0, None, None, (), 0, "there is no row yet")
    cutoff_ns = cutoff_of(rows, settings.train_fraction)
    selected = select(rows, schema, plan.names)
    has, train = _training_part(selected, plan, cutoff_ns)
    windows = len(train)
    del train  # before the held-out windows are made: memory
    later = len(_held_out_part(selected, plan, has, cutoff_ns))
    return Survey(
        rows=len(rows),
        newest=int(rows.times[-1]),
        cutoff_ns=cutoff_ns,
        present=tuple(name for name, there in zip(plan.names, has, strict=True) if there),
        train_windows=windows,
        reason=_shortfall(selected, plan, settings, windows, later),
    )


def prepare(  # noqa: PLR0913, PLR0917 (which rows, how they are looked at, and how they are cut)
    rows: Rows, schema: Schema, plan: Plan, settings: TrainSettings, cutoff_ns: int, until_ns: int
) -> Prepared:
    """Make the windows that a node trains on, and held-out ones of the rows from the cutoff up to `until_ns`.

    Nothing after the cutoff has a part in the training windows: they are made of the rows up to it alone. Whether
    enough rows lie after it, `survey` said before the run.

    Raises:
        NotReady: too few training windows; the message names the series, and what is there and what is needed.
        SchemaMismatch: the schema lacks a series of the plan.
    """
    selected = select(rows, schema, plan.names)
    has, train = _training_part(selected, plan, cutoff_ns)
    reason = _shortfall(selected, plan, settings, len(train), None)
    if reason is not None:
        raise NotReady(
            reason, cure="wait for more rows, or train with a shorter window, nearer horizons or a lower min-windows"
        )
    held_out = _held_out_part(_until(selected, until_ns), plan, has, cutoff_ns)
    return Prepared(schema.select(plan.names), has, train, held_out, cutoff_ns)


def cut(rows: Rows, schema: Schema, plan: Plan, cutoff_ns: int, held_out_after_ns: int | None = None) -> Prepared:
    """Make training and held-out windows, however few.

    Args:
        rows: All rows of a store.
        schema: Of the store.
        plan: How the model looks at them.
        cutoff_ns: Training windows end up to then, nanoseconds since the epoch.
        held_out_after_ns: The targets of held-out windows lie after it, at or after the cutoff; None: the cutoff.

    Raises:
        SchemaMismatch: the schema lacks a series of the plan, or a number of the plan is out of its range.
    """
    selected = select(rows, schema, plan.names)
    has, train = _training_part(selected, plan, cutoff_ns)
    after_ns = cutoff_ns if held_out_after_ns is None else held_out_after_ns
    held_out = _held_out_part(selected, plan, has, after_ns)
    return Prepared(schema.select(plan.names), has, train, held_out, cutoff_ns)


def newest_window(rows: Rows, schema: Schema, plan: Plan) -> LatestWindow:
    """The window that a forecast starts from.

    Raises:
        NotReady: no series has a window without a gap up to now.
        SchemaMismatch: the schema lacks a series of the plan.
    """
    selected = select(rows, schema, plan.names)
    latest = latest_window(
        _grid(selected, plan), plan.window, plan.max_gap_ns // plan.period_ns, plan.horizons, plan.season
    )
    if latest is None:
        raise NotReady(
            f"no series has {plan.window} rows without a gap up to now; of the newest {plan.window} rows, "
            f"{_told(selected.tail(plan.window), plan)} have a value",
            cure=_CURE,
        )
    return latest


def select(rows: Rows, schema: Schema, names: Sequence[str]) -> Rows:
    """The columns of these names, in their order.

    Raises:
        SchemaMismatch: a name is not in the schema, or the rows are not of this schema.
    """
    if rows.width != len(schema):
        raise SchemaMismatch(f"rows of {rows.width} columns are not of a schema of {len(schema)} series")
    return Rows(rows.times, rows.values[:, [schema.index(name) for name in names]])


def _until(rows: Rows, cutoff_ns: int) -> Rows:
    count = int(np.searchsorted(rows.times, cutoff_ns, side="right"))
    return Rows(rows.times[:count], rows.values[:count])


def _grid(rows: Rows, plan: Plan) -> Grid:
    return bridge_gaps(to_grid(rows, plan.period_ns), plan.max_gap_ns)


def _training_part(selected: Rows, plan: Plan, cutoff_ns: int) -> tuple[NDArray[np.bool_], Windows]:
    """Which series the node has, shape [k], and the windows of the rows up to the cutoff."""
    older = _grid(_until(selected, cutoff_ns), plan)
    whole = count_whole(older, plan.window, plan.horizons)
    has = (whole > 0) & (whole >= PRESENT_SHARE * whole.max())
    return has, _windows(older, plan, _lasting(older, plan, has))


def _held_out_part(selected: Rows, plan: Plan, has: NDArray[np.bool_], cutoff_ns: int) -> Windows:
    """The windows whose targets lie after the cutoff; a series that died is absent from those after its end."""
    everything = _grid(selected, plan)
    later = int((everything.times > cutoff_ns).sum())
    told = everything.tail(later + plan.window + plan.horizons[0] - 1)  # all that windows with later targets hold
    whole = np.where(has, count_whole(told, plan.window, plan.horizons), 0)
    require = _lasting(told, plan, has & (whole >= PRESENT_SHARE * whole.max(initial=0)))
    before = max(plan.window, plan.season) + plan.horizons[0]
    return split_by_time(_windows(everything.tail(later + before), plan, require), cutoff_ns)[1]


def _lasting(grid: Grid, plan: Plan, series: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of the series [k] that go on as long as the longest of them, give or take a window and its targets.

    One that died must not take with it the windows of the others after its end.
    """
    counted = np.arange(1, len(grid) + 1)[:, None]
    ends = np.where(grid.measured & series, counted, 0).max(axis=0, initial=0)
    return np.asarray(series & (ends >= ends.max(initial=0) - (plan.window + plan.horizons[-1])), np.bool_)


def _windows(grid: Grid, plan: Plan, require: NDArray[np.bool_]) -> Windows:
    if not bool(require.any()):
        return Windows.empty(plan.window, plan.horizons, grid.width, grid.period_ns)
    return make_windows(grid, plan.window, plan.horizons, require, plan.season)


def _shortfall(selected: Rows, plan: Plan, settings: TrainSettings, train: int, held_out: int | None) -> str | None:
    """Why so many windows are too few, or None when they are enough; `held_out` None: those do not matter."""
    wanted = (settings.min_windows, least_held_out_windows(settings))
    if train >= wanted[0] and (held_out is None or held_out >= wanted[1]):
        return None
    later = "" if held_out is None else f" and {held_out} of {wanted[1]} held-out windows"
    return (
        f"{train} of {wanted[0]} training windows{later}: "
        f"they need {rows_for_training(plan, settings)} rows, one every {plan.period_seconds:g} s without a gap longer "
        f"than {plan.max_gap_seconds:g} s; there are {len(selected)} rows, with a value in {_told(selected, plan)}"
    )


def _told(rows: Rows, plan: Plan) -> str:
    """How many values each series has, and for how long one that had some has had none."""
    told = []
    for name, there in zip(plan.names, np.isfinite(rows.values).T, strict=True):
        silent = int(np.argmax(there[::-1])) if there.any() else 0
        ended = f" (none in the newest {silent})" if silent > plan.window else ""
        told.append(f"{name} {there.sum()}{ended}")
    return ", ".join(told)
