"""Draws what a fleet's forecasts look like beside what came, and how each node fares against AR(10)."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from icosfl.train.baselines import AR, NLINEAR
from measuring.fleets import HORIZONS
from measuring.study import ERRORS, FEDERATED, PEER, Results

NODES = 4
POINTS = 180
TRUTH, FORECAST = "#222222", "#1f77b4"
COMPARED = {FEDERATED: FORECAST, NLINEAR: "#bbbbbb", PEER: "#d98b5f"}
BAR = 0.27


def draw(results: Results, place: Path) -> None:
    """Draw the first series of some nodes at the nearest and the farthest horizon, and each node's error."""
    mpl.use("Agg")
    chosen = _unlike(results)
    figure = pyplot.figure(figsize=(15, 2.7 * len(chosen) + 3.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [[f"{node}/{at}" for at in (0, len(HORIZONS) - 1)] for node in chosen] + [["bars", "bars"]]
    )
    for node in chosen:
        for at in (0, len(HORIZONS) - 1):
            _forecasts(axes[f"{node}/{at}"], results, node, at)
    axes[f"{chosen[0]}/0"].legend(loc="upper left", fontsize=8, ncols=3)
    _bars(axes["bars"], results)
    figure.suptitle(
        f"{results.fleet.name}: {results.fleet.schema.names[0]} forecast by the federated model, rows {results.last}, "
        "which no predictor was taught"
    )
    figure.savefig(place, dpi=100)
    pyplot.close(figure)


def _forecasts(axes: Axes, results: Results, node: int, at: int) -> None:
    bench, quantiles = results.benches[node], results.forecasts[node][at]
    test, unit = bench.tests[at], results.fleet.schema.series[0].unit
    part = slice(-POINTS, None)
    last = test.last_times[part]
    unit_ns, unit_name = (3.6e12, "hours") if last[-1] - last[0] > 7.2e12 else (6e10, "minutes")
    times = (last - last[0]) / unit_ns
    lower, middle, upper = quantiles[part, 0].T
    axes.fill_between(times, lower, upper, color=FORECAST, alpha=0.25, linewidth=0, label="P10 to P90")
    axes.plot(times, test.targets[part, 0, 0], color=TRUTH, linewidth=0.8, label="measured")
    axes.plot(times, middle, color=FORECAST, linewidth=1.1, label="P50")
    plural = "s" if HORIZONS[at] > 1 else ""
    axes.set_title(f"{bench.name}, {HORIZONS[at]} step{plural} ahead ({unit})", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(unit_name, fontsize=8)
    axes.margins(x=0)


def _bars(axes: Axes, results: Results) -> None:
    errors, rmse = results.errors[results.last], ERRORS.index("rmse")
    simple = errors[AR][0, :, 0, 0, rmse]
    places = np.arange(len(results.benches))
    for at, (name, color) in enumerate(COMPARED.items()):
        ratio = errors[name][:, :, 0, 0, rmse] / simple
        spread = ratio.std(axis=0) if len(ratio) > 1 else None
        axes.bar(places + at * BAR, ratio.mean(axis=0), BAR, yerr=spread, color=color, label=name, ecolor=TRUTH)
    axes.axhline(1, color=TRUTH, linewidth=0.8)
    axes.set_xticks(places + BAR, [bench.name for bench in results.benches], fontsize=8)
    axes.set_title(
        f"RMSE one step ahead / that of AR(10): below 1 is better; mean and deviation over {len(results.seeds)} seeds",
        fontsize=10,
    )
    axes.legend(fontsize=8, ncols=len(COMPARED))


def _unlike(results: Results) -> list[int]:
    """Some nodes, as unlike in size as there are."""
    sizes = [float(np.nanmean(bench.rows.values[:, 0])) for bench in results.benches]
    order = np.argsort(sizes)
    return sorted(
        {int(order[place]) for place in np.linspace(0, len(order) - 1, min(NODES, len(order))).round().astype(int)}
    )
