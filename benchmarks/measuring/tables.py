"""The tables of `benchmarks/forecast.py`, and whether the bars are reached."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from icosfl.schema import Values
from icosfl.train.baselines import AR, NAMES, NLINEAR, PERSISTENCE
from icosfl.train.loop import one_thread, predict
from icosfl.train.scores import SERVED, Summary, summary
from measuring.fleets import HORIZONS
from measuring.study import CENTRALISED, ERRORS, FEDERATED, LEARNED, METHODS, Results

RMSE = ERRORS.index("rmse")
NEAR, FAR = 0, len(HORIZONS) - 1


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that the forecaster must reach.

    Args:
        what: In words, with the limit.
        value: What was measured, in words.
        reached: Whether it is.
    """

    what: str
    value: str
    reached: bool


def show(console: Console, results: Results) -> None:
    """Print all tables of a fleet."""
    fleet = results.fleet
    console.print(f"\n[bold]{fleet.name}[/bold]: {fleet.about}", soft_wrap=True, highlight=False)
    for column, series in enumerate(fleet.schema.series):
        unit = series.unit or "-"
        for row in range(len(HORIZONS)):
            console.print(_errors(results, row, column, f"{series.name}, {unit}"))
        if len(results.errors) > 1:
            console.print(_origins(results, column, f"{series.name}, {unit}"))
        if len(fleet.nodes) > 3:
            console.print(_nodes(results, column))
    console.print(_intervals(results))
    console.print(_served(results))
    for line in _costs(results):
        console.print(line, soft_wrap=True, highlight=False)


def bars(results: Results) -> list[Bar]:
    """Whether the 13 hosts' bars are reached."""
    mean = {name: _over_nodes(values, RMSE)[:, :, 0] for name, values in results.errors[results.last].items()}
    ours, own, ar = mean[FEDERATED], _of(results, FEDERATED), _of(results, AR)
    near = ours[:, NEAR]
    below = (own[:, :, NEAR, 0, RMSE] < ar[:, :, NEAR, 0, RMSE]).sum(axis=1)
    nodes = own.shape[1]
    far = ours[:, FAR].mean()
    persistence, nlinear = (float(mean[name][0, FAR]) for name in (PERSISTENCE, NLINEAR))
    ratios = ours.mean(axis=0) / mean[CENTRALISED].mean(axis=0)
    held = [item for found in _summaries(results) for item in found if item.coverage is not None]
    coverage = {steps: np.mean([item.coverage for item in held if item.horizon_steps == steps]) for steps in HORIZONS}
    every = np.mean(list(coverage.values()))
    return [
        Bar("mean RMSE at 1 step at most 1.85", _spread(near, 4), bool(near.mean() <= 1.85)),
        Bar(
            f"below AR(10) at 1 step on at least 10 of {nodes} nodes",
            f"{_spread(below, 1)}, least {below.min()}",
            bool(below.mean() >= 10),
        ),
        Bar(
            f"at {HORIZONS[FAR]} steps at least 10 % below persistence",
            f"{1 - far / persistence:.1%} ({far:.4f} to {persistence:.4f})",
            bool(far <= 0.9 * persistence),
        ),
        Bar(f"at {HORIZONS[FAR]} steps below NLinear", f"{far:.4f} to {nlinear:.4f}", bool(far < nlinear)),
        Bar(
            "federated within 3 % of centralised at each horizon",
            ", ".join(f"{ratio:.4f}" for ratio in ratios),
            bool((ratios <= 1.03).all()),
        ),
        Bar(
            "the served 80 % interval holds 75 to 85 %, mean of nodes and horizons",
            f"{every:.1%} ({', '.join(f'{steps}: {share:.1%}' for steps, share in coverage.items())})",
            bool(0.75 <= every <= 0.85),
        ),
    ]


def show_bars(console: Console, found: Sequence[Bar]) -> None:
    """Print a line for each bar."""
    for bar in found:
        console.print(f"{'PASS' if bar.reached else 'FAIL'}  {bar.what}: {bar.value}", soft_wrap=True, highlight=False)


def plain(results: Results) -> dict[str, Any]:
    """All means, standard deviations and summaries as plain JSON."""
    found: dict[str, Any] = {"about": results.fleet.about, "recipe": str(results.recipe), "seeds": list(results.seeds)}
    for origin, errors in results.errors.items():
        found[str(origin)] = {name: _plain(results, values) for name, values in errors.items()}
    found["served"] = [[item.to_dict() for item in items] for items in _summaries(results)]
    return found


def milliseconds(results: Results, times: int = 200) -> float:
    """Median time of one forecast of a node by one thread."""
    bench, model = results.benches[0], results.model
    test = bench.tests[0]
    taken = []
    with one_thread():
        for at in range(times):
            row = slice(at % len(test), at % len(test) + 1)
            begun = time.perf_counter()
            predict(model, bench.learner.linear, test.inputs[row], test.last_times[row])  # type: ignore[arg-type]
            taken.append(time.perf_counter() - begun)
    return float(np.median(taken) * 1e3)


def _errors(results: Results, row: int, column: int, what: str) -> Table:
    """All methods at one horizon, means over the nodes, at the last origin."""
    errors, steps = results.errors[results.last], HORIZONS[row]
    ar = errors[AR][:, :, row, column, RMSE]
    table = _table(
        f"{what}: {steps} {'step' if steps == 1 else 'steps'} ({_time(results, steps)}) ahead, rows {results.last}, "
        f"mean of {len(results.fleet.nodes)} nodes"
    )
    for name in ("method", "RMSE", "MAE", "sMAPE %", "MASE", "nodes below AR(10)"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name in METHODS:
        if name not in errors or np.isnan(errors[name][:, :, row, column, RMSE]).any():
            continue
        each = errors[name][:, :, row, column]
        below = (each[..., RMSE] < ar).sum(axis=1)
        table.add_row(
            name,
            *(_spread(np.nanmean(each[..., at], axis=1), 3) for at in range(len(ERRORS))),
            "" if name == AR else _spread(below, 1),
            style="bold" if name == FEDERATED else None,
        )
    return table


def _origins(results: Results, column: int, what: str) -> Table:
    """RMSE at all origins and horizons."""
    table = _table(f"{what}: RMSE by what was forecast (trained on all rows before), mean of nodes")
    table.add_column("method")
    for origin in results.errors:
        for steps in HORIZONS:
            table.add_column(f"{origin}\n{steps}", justify="right")
    for name in METHODS:
        cells = []
        for errors in results.errors.values():
            for row in range(len(HORIZONS)):
                values = errors[name][:, :, row, column, RMSE].mean(axis=1) if name in errors else np.array([np.nan])
                cells.append("" if np.isnan(values).any() else _spread(values, 3))
        if any(cells):
            table.add_row(name, *cells, style="bold" if name == FEDERATED else None)
    return table


def _nodes(results: Results, column: int) -> Table:
    """One-step RMSE node by node."""
    errors = results.errors[results.last]
    names = [name for name in (FEDERATED, AR, NLINEAR, "moving_average", METHODS[-1]) if name in errors]
    table = _table(f"RMSE at 1 step, rows {results.last}, node by node")
    for head in ("node", *names, f"{FEDERATED} / AR(10)"):
        table.add_column(head, justify="left" if head == "node" else "right")
    for at, bench in enumerate(results.benches):
        each = [errors[name][:, at, NEAR, column, RMSE] for name in names]
        table.add_row(bench.name, *(_spread(values, 3) for values in each), f"{each[0].mean() / each[1].mean():.3f}")
    return table


def _intervals(results: Results) -> Table:
    """What lies between P10 and P90, before any calibration."""
    table = _table(f"between the models' own P10 and P90, rows {results.last}: share held, mean width; mean of nodes")
    table.add_column("method")
    places = list(_places(results))
    for column, row in places:
        table.add_column(f"{results.fleet.schema.names[column]}\n{HORIZONS[row]}", justify="right")
    for name in LEARNED:
        held = results.held[results.last][name].mean(axis=(0, 1))
        table.add_row(name, *(f"{held[row, column, 0]:.1%}, {held[row, column, 1]:.3g}" for column, row in places))
    return table


def _served(results: Results) -> Table:
    """What nodes would serve: the product's own scores, of all seeds."""
    first = next(iter(results.errors))
    middle = (1 + first.train) / 2
    table = _table(
        f"served: fitted to the first {first.train:.0%} of the rows, chosen and calibrated on the next, "
        f"to {middle:.0%}, measured on the last {1 - middle:.0%}"
    )
    for name in ("series", "steps", "RMSE served", FEDERATED, *NAMES, "beats AR(10)", "chosen", "holds", "width"):
        table.add_column(name, justify="right" if name not in {"series", "chosen"} else "left")
    for items in zip(*_summaries(results), strict=True):
        one = items[0]
        chosen = {name: sum(item.chosen.get(name, 0) for item in items) for name in one.chosen}
        table.add_row(
            one.series,
            str(one.horizon_steps),
            _spread(np.array([item.means[SERVED].rmse for item in items]), 3),
            _spread(np.array([item.means["global"].rmse for item in items]), 3),
            *(
                f"{one.means[name].rmse:.3f}" if name in one.means and one.means[name].nodes == one.nodes else ""
                for name in NAMES
            ),
            f"{np.mean([item.served_beats[AR] for item in items]):.0%}",
            ", ".join(f"{name} {count / len(items):.3g}" for name, count in chosen.items() if count),
            _mean_share([item.coverage for item in items]),
            f"{np.mean([item.width for item in items if item.width is not None] or [np.nan]):.3g}",
        )
    return table


def _costs(results: Results) -> Iterator[str]:
    shape = results.recipe.shape(results.benches[0].learner.windows)
    cost = f"{milliseconds(results):.2f} ms a forecast of all series and horizons by one thread"
    yield f"{shape.parameters} parameters, {cost}"
    yield "processor seconds, all seeds and origins: " + ", ".join(
        f"{name} {value:.0f}" for name, value in results.seconds.items()
    )


def _summaries(results: Results) -> list[tuple[Summary, ...]]:
    return [summary(scores) for scores in results.served]


def _places(results: Results) -> Iterator[tuple[int, int]]:
    return ((column, row) for column in range(len(results.fleet.schema)) for row in range(len(HORIZONS)))


def _of(results: Results, method: str) -> Values:
    return results.errors[results.last][method]


def _over_nodes(values: Values, error: int) -> Values:
    """Mean over the nodes of one error, shape [seeds, h, k]."""
    return np.asarray(values[..., error].mean(axis=1))


def _plain(results: Results, values: Values) -> dict[str, Any]:
    """By series and steps: mean over nodes, then mean and deviation over seeds, of each error; and RMSE by node."""
    return {
        f"{results.fleet.schema.names[column]} {HORIZONS[row]}": {
            **{error: _pair(values[:, :, row, column, at].mean(axis=1)) for at, error in enumerate(ERRORS)},
            "rmse of nodes": values[:, :, row, column, RMSE].mean(axis=0).tolist(),
        }
        for column, row in _places(results)
        if not np.isnan(values[:, :, row, column, RMSE]).any()
    }


def _pair(values: Values) -> dict[str, float] | None:
    return None if np.isnan(values).any() else {"mean": float(values.mean()), "std": _std(values)}


def _spread(values: Any, digits: int) -> str:
    """Mean, and standard deviation where there are several."""
    numbers = np.asarray(values, float)
    text = f"{numbers.mean():.{digits}f}"
    return text if len(numbers) < 2 else f"{text} ± {_std(numbers):.{digits}f}"


def _std(values: Values) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _mean_share(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.1%}" if known else ""


def _time(results: Results, steps: int) -> str:
    seconds = steps * results.fleet.period_seconds
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"


def _table(title: str) -> Table:
    return Table(box=None, title=f"\n{title}", title_justify="left", title_style="")
