"""The forecasts, the store and the model as Prometheus series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from icosfl.serve.values import ForecastPage, ModelInfo, Readiness, StoreState


@dataclass(frozen=True, slots=True)
class Counts:
    """What the service has done since it started."""

    reads: int = 0
    failed_reads: int = 0
    models: int = 0
    refused_models: int = 0
    evaluations: int = 0


class Source(Protocol):
    """Where the pages get their answers; every call returns at once, whatever the store or the model does."""

    def readiness(self) -> Readiness:
        """Return whether the node can forecast now, and why not."""

    def page(self) -> ForecastPage:
        """Return the newest forecasts, or why there are none."""

    def counts(self) -> Counts:
        """Return what the service has done since it started."""


class ForecastCollector(Collector):
    """Reads the source at each scrape; a series that has no value now is left out, so that it goes stale."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the series are known at each scrape, not before."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield all series as they are now."""
        readiness, page = self._source.readiness(), self._source.page()
        yield _gauge("icosfl_forecast_ready", "1 if the node can forecast now, else 0.", float(readiness.ready))
        yield from _forecasts(page)
        if readiness.store is not None:
            yield from _store(readiness.store)
        if readiness.model is not None:
            yield from _model(readiness.model)
        yield from _counters(self._source.counts())


def build_registry(source: Source) -> CollectorRegistry:
    """Return a registry of the source's series and of this process's memory, processor time and files."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ForecastCollector(source))
    ProcessCollector(registry=registry)
    return registry


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _forecasts(page: ForecastPage) -> Iterator[Metric]:
    """The series of the forecasts. Their names and labels stay when another predictor takes over: one says which."""
    place = ("series", "horizon_seconds")
    units, models, baselines = (*place, "unit"), (*place, "model"), (*place, "baseline")
    value = _family("", "Forecast in the series' unit.", units)
    lower = _family("_lower", "Lower end of the forecast's interval.", units)
    upper = _family("_upper", "Upper end of the forecast's interval.", units)
    width = _family("_width", "Mean width of such an interval on the node's own test part.", units)
    coverage = _family("_coverage", "Share of the test part that such an interval held.", place)
    served = _family("_served", "Which predictor makes the forecast; always 1.", models)
    candidate = _family("_candidate", "What each predictor says of the same moment.", (*units, "model"))
    errors = {
        "mae": _family("_mae", "Mean absolute error on the node's own test part.", (*units, "model")),
        "rmse": _family("_rmse", "Root mean squared error there, in the series' unit.", (*units, "model")),
        "smape": _family("_smape_percent", "Symmetric mean absolute percentage error there, 0 to 200.", models),
        "mase": _family(
            "_mase", "Mean absolute error there / mean step between two rows of the training part.", models
        ),
    }
    skill = _family("_skill", "1 - RMSE of the global model / RMSE of the baseline there.", baselines)
    last = _family("_last", "Newest measured value of the series.", ("series", "unit"))
    for item in page.forecasts:
        at = (item.series, f"{item.horizon_seconds:g}")
        _add(value, (*at, item.unit), item.value)
        _add(lower, (*at, item.unit), item.lower)
        _add(upper, (*at, item.unit), item.upper)
        _add(width, (*at, item.unit), item.width)
        _add(coverage, at, item.coverage)
        _add(served, (*at, item.model), 1)
        for name, number in item.candidates.items():
            _add(candidate, (*at, item.unit, name), number)
        for name, told in item.errors.items():
            _add(errors["mae"], (*at, item.unit, name), told.mae)
            _add(errors["rmse"], (*at, item.unit, name), told.rmse)
            _add(errors["smape"], (*at, name), told.smape)
            _add(errors["mase"], (*at, name), told.mase)
        for name, number in item.skill.items():
            _add(skill, (*at, name), number)
    for series, (unit, number) in {item.series: (item.unit, item.last) for item in page.forecasts}.items():
        _add(last, (series, unit), number)
    yield from (value, lower, upper, width, coverage, served, candidate, *errors.values(), skill, last)
    if page.based_on is not None:
        yield _gauge(
            "icosfl_forecast_based_on_timestamp_seconds",
            "Time of the newest row that the forecasts are based on.",
            page.based_on.timestamp(),
        )


def _family(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"icosfl_forecast{name}", text, labels=labels)


def _add(family: GaugeMetricFamily, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)


def _store(store: StoreState) -> Iterator[Metric]:
    yield _gauge("icosfl_store_rows", "Rows in the node's store.", store.rows)
    yield _gauge("icosfl_store_capacity_rows", "Rows that the node's store keeps at most.", store.capacity)
    if store.newest is not None:
        yield _gauge(
            "icosfl_store_newest_timestamp_seconds", "Time of the store's newest row.", store.newest.timestamp()
        )


def _model(model: ModelInfo) -> Iterator[Metric]:
    yield _gauge("icosfl_model_round", "Round of its run that made the model.", model.round)
    yield _gauge(
        "icosfl_model_created_timestamp_seconds",
        "When the model was made on the controller.",
        model.created.timestamp(),
    )
    info = GaugeMetricFamily("icosfl_model_info", "Which model forecasts; always 1.", labels=("run", "digest"))
    info.add_metric((model.run, model.digest), 1)
    yield info


def _counters(counts: Counts) -> Iterator[Metric]:
    reads = CounterMetricFamily("icosfl_forecast_store_reads", "Looks at the store.", labels=("result",))
    reads.add_metric(("answered",), counts.reads)
    reads.add_metric(("failed",), counts.failed_reads)
    models = CounterMetricFamily("icosfl_forecast_models", "New models found.", labels=("result",))
    models.add_metric(("loaded",), counts.models)
    models.add_metric(("refused",), counts.refused_models)
    yield from (reads, models)
    yield CounterMetricFamily(
        "icosfl_forecast_evaluations", "Measurements of the model on the node's own rows.", value=counts.evaluations
    )
