"""What a forecast service knows at one moment, and the answers that follow from it: plain functions on one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from icosfl.config import NodeConfig
from icosfl.schema import Rows
from icosfl.serve.measure import Measured
from icosfl.serve.metrics import Counts
from icosfl.serve.predict import Outlook
from icosfl.serve.predictor import Predictor
from icosfl.serve.values import ForecastPage, Readiness, StoreState, to_datetime
from icosfl.store.base import StoreInfo
from icosfl.train.scores import INTERVAL

NANOSECONDS = 1_000_000_000
SENDERS = "see whether host_metrics and otlp_bridge run on this node"


@dataclass(frozen=True, slots=True)
class Known:
    """All that the service knows; replaced as a whole, so that no page sees half of a change.

    Args:
        info: What the store held when it last answered; None before its first answer.
        rows: Its newest rows, as many as the model needs.
        store_trouble: Why the store did not answer the last time; empty when it did.
        model: The model in service.
        model_trouble: Why a newer model was not taken; empty when there is none.
        measured: How good the model in service and the baselines are on this node.
        measure_trouble: Why it could not be measured the last time; empty when it could.
        outlook: The forecasts from rows and model.
        outlook_trouble: Why there are none from them.
        generated: When the forecasts were made.
        counts: What was done so far.
    """

    info: StoreInfo | None = None
    rows: Rows | None = None
    store_trouble: str = ""
    model: Predictor | None = None
    model_trouble: str = ""
    measured: Measured | None = None
    measure_trouble: str = ""
    outlook: Outlook | None = None
    outlook_trouble: str = ""
    generated: datetime | None = None
    counts: Counts = field(default_factory=Counts)


def readiness(known: Known, node: NodeConfig, now_ns: int) -> Readiness:
    """Return whether the node can forecast at `now_ns`, and if not, why."""
    reasons = _reasons(known, node, now_ns)
    return Readiness(
        ready=not reasons,
        reasons=reasons,
        warnings=_warnings(known),
        host=node.host,
        store=_store_state(known.info, now_ns),
        model=known.model.info if known.model else None,
    )


def forecast_page(known: Known, node: NodeConfig, now_ns: int) -> ForecastPage:
    """Return the forecasts that hold at `now_ns`, or why there are none."""
    reasons = _reasons(known, node, now_ns)
    outlook = None if reasons else known.outlook
    return ForecastPage(
        ready=outlook is not None,
        reasons=reasons,
        warnings=_warnings(known),
        host=node.host,
        generated=known.generated if outlook else None,
        based_on=to_datetime(outlook.last_time) if outlook else None,
        model=known.model.info if known.model else None,
        interval=INTERVAL if known.measured else None,
        forecasts=outlook.forecasts if outlook else (),
        omitted=outlook.omitted if outlook else (),
        evaluation=known.measured.evaluation if known.measured else None,
    )


def _store_state(info: StoreInfo | None, now_ns: int) -> StoreState | None:
    if info is None:
        return None
    if info.newest is None:
        return StoreState(info.rows, info.capacity, None, None)
    age = round((now_ns - info.newest) / NANOSECONDS, 3)
    return StoreState(info.rows, info.capacity, to_datetime(info.newest), age)


def _reasons(known: Known, node: NodeConfig, now_ns: int) -> tuple[str, ...]:
    model = ""
    if known.model is None:
        model = known.model_trouble or f"no model yet in {node.models_dir} (train one: icosfl train)"
    rows = known.store_trouble or _trouble_of_rows(known.info, node, now_ns)
    reasons = tuple(reason for reason in (model, rows) if reason)
    if reasons or known.outlook is not None:
        return reasons
    return (known.outlook_trouble or "the first forecast is being made",)


def _trouble_of_rows(info: StoreInfo | None, node: NodeConfig, now_ns: int) -> str:
    if info is None:
        return "the store has not answered yet"
    if info.newest is None:
        return f"the store is empty ({SENDERS})"
    age = (now_ns - info.newest) / NANOSECONDS
    if age > node.stale_after_seconds:
        return f"the newest row is {age:.0f} s old, more than {node.stale_after_seconds:g} s ({SENDERS})"
    if age < -node.stale_after_seconds:
        return f"the newest row lies {-age:.0f} s in the future (set the clocks of this node and of its sender)"
    return ""


def _warnings(known: Known) -> tuple[str, ...]:
    found = []
    if known.model is not None and known.model_trouble:
        found.append(f"a newer model was not taken: {known.model_trouble}")
    if known.model is not None and known.measured is None:
        why = f" ({known.measure_trouble})" if known.measure_trouble else ""
        found.append(f"the model has not been checked on this node yet, so its forecasts have no interval{why}")
    elif known.measure_trouble:
        found.append(f"the model could not be checked anew on this node: {known.measure_trouble}")
    if known.outlook is not None:
        found += [f"{item.series} is not forecast: {item.reason}" for item in known.outlook.omitted]
        found += known.outlook.warnings
    return tuple(found)
