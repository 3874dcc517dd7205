"""Draws a run's report with matplotlib, in colours that the colour-blind tell apart.

The package is imported when the first picture is drawn: a ServerApp that only trains does without.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icosfl.aggregate.report_story import Story
from icosfl.config import environment
from icosfl.schema import Times, Values
from icosfl.train.baselines import AR, GLOBAL, MOVING_AVERAGE, NLINEAR, PERSISTENCE, SEASONAL_NAIVE
from icosfl.train.scores import SERVED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More than these cannot be read.
MOST_HOSTS = 60
MOST_SERIES = 8
MOST_HORIZONS = 4

_WIDTH, _DPI = 12.0, 110
_INK, _QUIET, _FAINT = "#222222", "#666666", "#e4e4e4"
# Okabe and Ito's
_BLUE, _ORANGE, _GREEN, _SKY = "#0072b2", "#d55e00", "#009e73", "#56b4e9"
_PURPLE, _YELLOW = "#cc79a7", "#e69f00"
_MARKS = {  # by predictor: marker, colour, name
    GLOBAL: ("o", _BLUE, "global model"),
    SERVED: ("D", _ORANGE, "what is served"),
    SEASONAL_NAIVE: ("s", _PURPLE, "seasonal naive"),
    MOVING_AVERAGE: ("^", _YELLOW, "moving average"),
    AR: ("v", _GREEN, "autoregression"),
    NLINEAR: ("P", _SKY, "NLinear"),
}
_FARTHEST_RATIO = 2.0
# Cells are labelled with their values while the labels fit.
_MOST_LABELLED = 14
_LONGEST_REASON = 70


@dataclass(frozen=True, slots=True, eq=False)
class OwnForecast:
    """What the model would have said of the controller's newest rows, none of which it was taught or chosen by.

    Args:
        host: The controller.
        series: Name.
        unit: Of the values.
        horizon_seconds: How far ahead it was said.
        period_ns: Distance of two steps.
        times: What it was said of, in nanoseconds since the epoch, ascending, shape [n], n at least 1.
        truth: What came, NaN where nothing was measured, shape [n].
        quantiles: P10, P50 and P90, ascending, NaN where the model said nothing, shape [n, 3].
    """

    host: str
    series: str
    unit: str
    horizon_seconds: float
    period_ns: int
    times: Times
    truth: Values
    quantiles: Values

    @property
    def held(self) -> float | None:
        """Share of the measured points between P10 and P90; None without one."""
        known = np.isfinite(self.truth) & np.isfinite(self.quantiles).all(axis=1)
        if not bool(known.any()):
            return None
        truth, quantiles = self.truth[known], self.quantiles[known]
        return float(((truth >= quantiles[:, 0]) & (truth <= quantiles[:, -1])).mean())


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn part of a report: a PNG and what it shows, in words."""

    title: str
    caption: str
    png: bytes


def draw(told: Story, summary: Sequence[Mapping[str, Any]], forecasts: Sequence[OwnForecast]) -> list[Picture]:
    """Draw all parts that there is something to draw for, each of the same width.

    Args:
        told: The run.
        summary: The nodes' scores together, as `icosfl.train.scores.Summary` in plain JSON.
        forecasts: On the controller's rows.
    """
    with _pen():
        parts: list[Picture] = []
        if told.rounds:
            parts += [_rounds(told), _nodes(told)]
        if summary:
            parts.append(_baselines(summary))
        if forecasts:
            parts.append(_forecasts(forecasts))
        return parts


def stack(title: str, pictures: Sequence[Picture]) -> bytes:
    """All pictures below each other under a title, as one PNG; without a picture, the title alone."""
    from PIL import Image

    with _pen():
        figure = _figure(0.5)
        figure.text(0.012, 0.4, title, fontsize=15, weight="bold", va="center")
        head = _png(figure)
    images = [Image.open(io.BytesIO(png)).convert("RGB") for png in (head, *(picture.png for picture in pictures))]
    whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@contextmanager
def _pen() -> Iterator[None]:
    """Draw in the report's style. It leaves no font list in a home that a service's user may not have."""
    with tempfile.TemporaryDirectory(prefix="icosfl-pen-") as scratch, environment({"MPLCONFIGDIR": scratch}):
        import matplotlib as mpl
        import matplotlib.figure
    style: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.parse_math": False,  # a host's name is no formula
        "text.color": _INK,
        "axes.edgecolor": _QUIET,
        "axes.labelcolor": _QUIET,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _FAINT,
        "xtick.color": _QUIET,
        "ytick.color": _QUIET,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }
    with mpl.rc_context(style):
        yield


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
    return Figure(figsize=(_WIDTH, height), dpi=_DPI, layout=layout, facecolor="white")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _rounds(told: Story) -> Picture:
    figure = _figure(3.3)
    loss, skill, seconds = figure.subplots(1, 3)
    numbers = [each.round for each in told.rounds]
    loss.plot(numbers, [each.loss for each in told.rounds], color=_BLUE, marker="o", markersize=4)
    loss.set_title("Training loss")
    _skill(skill, told)
    seconds.bar(numbers, [each.seconds for each in told.rounds], color=_SKY, width=0.6, label="whole round")
    known = [(each.round, list(each.seconds_by_node.values())) for each in told.rounds if each.seconds_by_node]
    if known:
        at = [number for number, _ in known]
        seconds.plot(
            at, [median(each) for _, each in known], color=_INK, marker="_", ls="", markersize=12, label="median node"
        )
    seconds.set_title("Seconds")
    seconds.set_ylim(bottom=0)
    _legend_above(seconds)
    for axes, first in ((loss, 1), (skill, 0), (seconds, 1)):
        _round_axis(axes, told, first)
    resumed = sorted(set(told.resumed_after))
    caption = (
        "Left: the nodes' mean loss in their last epoch, in units of the usual error of each node's own linear part. "
        "Middle: how much smaller the model's error is than persistence's on the nodes' validation rows, before and "
        "after each round; dots are nodes. Right: how long the rounds took."
    )
    if resumed:
        caption += f" Dotted: the run was interrupted after round {', '.join(map(str, resumed))}, and went on."
    return Picture("Rounds", caption, _png(figure))


def _legend_above(axes: Axes) -> None:
    """A legend beside the title, where it hides nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.02, 0.985), ncols=2, handlelength=1.4, columnspacing=1.0)


def _skill(axes: Axes, told: Story) -> None:
    axes.set_title("Skill of the fleet")
    known = [(model.round, model.skill) for model in told.models if model.skill is not None]
    if not known:
        _nothing(axes, "no node could measure it")
        return
    for model in told.models:
        values = list(model.by_host.values())
        axes.plot([model.round] * len(values), values, ls="", marker="o", ms=3.5, color=_QUIET, alpha=0.35, mew=0)
    axes.axhline(0, color=_INK, linewidth=0.9)
    axes.plot(*zip(*known, strict=True), color=_BLUE, marker="o", markersize=4, label="mean")
    chosen = dict(known).get(told.handed_out if told.handed_out is not None else -1)
    if chosen is not None and told.handed_out is not None:
        axes.plot(
            told.handed_out, chosen, ls="", marker="*", markersize=15, color=_ORANGE, mec="white", label="handed out"
        )
    _legend_above(axes)
    low = min([value for model in told.models for value in model.by_host.values()] + [value for _, value in known])
    if low < -1:
        axes.set_ylim(bottom=-1.05)  # one node's far worse model would hide all others'
    axes.annotate(
        "persistence",
        (1, 0),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=_QUIET,
    )


def _round_axis(axes: Axes, told: Story, first: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round" if first else "model after round (0: before the first)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(first - 0.5, max(told.rounds[-1].round, first) + 0.5)
    for after in set(told.resumed_after):
        axes.axvline(after + 0.5 - (not first) * 0.5, color=_ORANGE, linestyle=":", linewidth=1.2)


def _nodes(told: Story) -> Picture:
    hosts = shown_hosts(told)
    figure = _figure(1.25 + 0.21 * max(len(hosts), 3))
    skill, seconds = figure.subplots(1, 2, sharey=True)
    models = [model for model in told.models if model.by_host]
    _skill_by_node(skill, hosts, {model.round: model.by_host for model in models})
    _seconds_by_node(seconds, hosts, told)
    skill.set_yticks(range(len(hosts)), [_short(host) for host in hosts], fontsize=8)
    skill.set_ylim(len(hosts) - 0.5, -0.5)
    for axes in (skill, seconds):
        axes.grid(visible=False)
        axes.tick_params(length=0)
    more = f" The {len(hosts)} nodes with the least skill of {len(told.hosts)}." if len(hosts) < len(told.hosts) else ""
    caption = (
        "Left: validation skill by node; blue is better than persistence, red is worse. Right: from the question to "
        f"the reply; a cross: the node's update is not, or not wholly, in that round (why: see the table).{more}"
    )
    return Picture("Nodes", caption, _png(figure))


def shown_hosts(told: Story) -> list[str]:
    """The hosts that are drawn: all, or of too many those that were left out or have the least skill."""
    if len(told.hosts) <= MOST_HOSTS:
        return list(told.hosts)
    newest = next((model.by_host for model in reversed(told.models) if model.by_host), {})
    worst = sorted(told.hosts, key=lambda host: newest.get(host, -np.inf))[:MOST_HOSTS]
    return [host for host in told.hosts if host in set(worst)]


def _skill_by_node(axes: Axes, hosts: Sequence[str], by_round: Mapping[int, Mapping[str, float]]) -> None:
    axes.set_title("Skill by node and model")
    if not by_round:
        _nothing(axes, "no node could measure it")
        axes.set_xticks([])
        return
    columns = sorted(by_round)
    values = np.array([[by_round[number].get(host, np.nan) for number in columns] for host in hosts])
    known = np.abs(values[np.isfinite(values)])
    most = min(max(float(np.quantile(known, 0.95)) if len(known) else 0.0, 0.1), 1.0)
    _cells(axes, values, columns, "RdBu", (-most, most), "{:.2f}")
    axes.set_xlabel("model after round (0: before the first)")


def _seconds_by_node(axes: Axes, hosts: Sequence[str], told: Story) -> None:
    axes.set_title("Seconds by node and round (cross: left out)")
    columns = [each.round for each in told.rounds]
    values = np.array([[each.seconds_by_node.get(host, np.nan) for each in told.rounds] for host in hosts])
    known = values[np.isfinite(values)]
    _cells(axes, values, columns, "Blues", (0.0, max(float(known.max()) if len(known) else 0.0, 1e-3) * 1.4), "{:.1f}")
    for row, host in enumerate(hosts):
        for column, each in enumerate(told.rounds):
            if told.reason(each, host):
                aside = 0.36 if np.isfinite(values[row, column]) and len(columns) <= _MOST_LABELLED else 0.0
                axes.plot(column + aside, row, marker="x", color=_ORANGE, markersize=6, markeredgewidth=2)
    for absent in told.at_first:
        if absent.host in hosts and not np.isfinite(values[hosts.index(absent.host)]).any():
            text = absent.reason if len(absent.reason) <= _LONGEST_REASON else f"{absent.reason[:_LONGEST_REASON]}…"
            axes.text(-0.4, hosts.index(absent.host), text, va="center", fontsize=7.5, color=_QUIET)
    axes.set_xlabel("round")


def _cells(  # noqa: PLR0913, PLR0917 (what is drawn, and how)
    axes: Axes,
    values: NDArray[np.float64],
    columns: Sequence[int],
    colours: str,
    ends: tuple[float, float],
    label: str,
) -> None:
    axes.set_facecolor("#f3f3f3")
    image = axes.imshow(values, cmap=colours, vmin=ends[0], vmax=ends[1], aspect="auto", interpolation="nearest")
    colour_map = image.cmap
    shown = sorted({round(place) for place in np.linspace(0, len(columns) - 1, min(len(columns), _MOST_LABELLED))})
    axes.set_xticks(shown, [str(columns[place]) for place in shown])
    if len(columns) > _MOST_LABELLED:
        axes.figure.colorbar(image, ax=axes, shrink=0.6, fraction=0.05, pad=0.02)
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = colour_map((value - ends[0]) / (ends[1] - ends[0]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            axes.text(
                column, row, label.format(value), ha="center", va="center", fontsize=7, color="white" if dark else _INK
            )


def _baselines(summary: Sequence[Mapping[str, Any]]) -> Picture:
    figure = _figure(1.35 + 0.27 * len(summary))
    axes = figure.subplots()
    for row, each in enumerate(summary):
        if not _persistence(each):
            axes.text(1, row, "persistence makes no error here", ha="center", va="center", fontsize=8, color=_QUIET)
    for name, (marker, colour, words) in reversed(_MARKS.items()):
        found = [
            (row, each["means"][name]["rmse"] / _persistence(each))
            for row, each in enumerate(summary)
            if name in each["means"] and _persistence(each)
        ]
        near = [(ratio, row) for row, ratio in found if ratio <= _FARTHEST_RATIO]
        far = [(_FARTHEST_RATIO, row) for row, ratio in found if ratio > _FARTHEST_RATIO]
        _dots(axes, name, near, (marker, colour), words)
        _dots(axes, name, far, (">", colour), None)
    axes.axvline(1, color=_INK, linewidth=1)
    axes.set_yticks(
        range(len(summary)), [f"{_short(each['series'])}, {ahead(each['horizon_seconds'])}" for each in summary]
    )
    axes.set_ylim(len(summary) - 0.5, -0.5)
    axes.set_xlim(0, _FARTHEST_RATIO)
    axes.set_xlabel("RMSE on the test rows / persistence's: left of the line is better")
    axes.set_title("Errors beside simple forecasts")
    figure.legend(loc="outside right center", reverse=True, labelspacing=0.9)
    caption = (
        "On each node's newest rows, which had no part in any choice; means over the nodes. What is served is "
        "whichever predictor was best on a node's validation rows."
    )
    return Picture("Baselines", caption, _png(figure))


def _persistence(summary: Mapping[str, Any]) -> float:
    return float((summary["means"].get(PERSISTENCE) or {}).get("rmse") or 0.0)


def _dots(axes: Axes, name: str, places: Sequence[tuple[float, int]], look: tuple[str, str], label: str | None) -> None:
    """Filled dots; of what is served a ring, which leaves the predictor's own dot to be seen in it."""
    ring, size = name == SERVED, {GLOBAL: 8, SERVED: 12}.get(name, 6)
    axes.plot(
        [ratio for ratio, _ in places],
        [row for _, row in places],
        linestyle="",
        marker=look[0],
        markersize=size,
        markerfacecolor="none" if ring else look[1],
        markeredgecolor=look[1] if ring else "white",
        markeredgewidth=1.6 if ring else 0.8,
        clip_on=False,
        zorder=4 if ring else 3,
        label=label,
    )


def _forecasts(forecasts: Sequence[OwnForecast]) -> Picture:
    series = list(dict.fromkeys(each.series for each in forecasts))[:MOST_SERIES]
    horizons = sorted({each.horizon_seconds for each in forecasts})
    if len(horizons) > MOST_HORIZONS:  # the nearest, the farthest, and some between
        horizons = [horizons[round(at)] for at in np.linspace(0, len(horizons) - 1, MOST_HORIZONS)]
    figure = _figure(0.4 + 1.95 * len(series))
    grid = figure.subplots(len(series), len(horizons), squeeze=False, sharex=True)
    by_place = {(each.series, each.horizon_seconds): each for each in forecasts}
    for row, name in enumerate(series):
        for column, seconds in enumerate(horizons):
            forecast = by_place.get((name, seconds))
            if forecast is None:
                _nothing(grid[row][column], "no test rows")
            else:
                _forecast(grid[row][column], forecast)
    handles, words = next(
        (
            (found, names)
            for line in grid
            for axes in line
            for found, names in [axes.get_legend_handles_labels()]
            if found
        ),
        ([], []),
    )
    figure.legend(handles, words, loc="outside upper right", ncols=3)
    hosts = ", ".join(dict.fromkeys(each.host for each in forecasts))
    figure.suptitle(
        f"Forecasts and what came, on {_short(hosts)}: nodes' rows never leave them",
        x=0.01,
        ha="left",
        fontsize=10.5,
        weight="bold",
    )
    everything = len({each.series for each in forecasts}), len({each.horizon_seconds for each in forecasts})
    more = "" if everything == (len(series), len(horizons)) else " Not all series and horizons are drawn."
    caption = (
        f"Rows of the controller alone, {hosts}: the rows of the other nodes never leave them. P10 to P90 as the "
        "model says them; what is served is calibrated on validation rows. The times are UTC, and none of these rows "
        f"was learnt or chosen by.{more}"
    )
    return Picture("Forecasts and what came", caption, _png(figure))


def _forecast(axes: Axes, forecast: OwnForecast) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    times, truth, quantiles = _with_gaps(forecast)
    at = times.astype("datetime64[ns]")
    axes.fill_between(at, quantiles[:, 0], quantiles[:, 2], color=_SKY, alpha=0.45, linewidth=0, label="P10 to P90")
    axes.plot(at, quantiles[:, 1], color=_BLUE, linewidth=1.3, label="P50")
    alone: dict[str, Any] = {"marker": ".", "markersize": 2.5} if len(times) < 40 else {}
    axes.plot(at, truth, color=_INK, linewidth=0.8, label="measured", **alone)
    unit = "" if forecast.unit == "1" else f" ({forecast.unit})"
    axes.set_title(f"{_short(forecast.series)}{unit}, {ahead(forecast.horizon_seconds)}", fontsize=9.5)
    if forecast.held is not None:
        axes.annotate(
            f"{forecast.held:.0%} within",
            (1, 1),
            xycoords="axes fraction",
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_QUIET,
        )
    locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
    axes.margins(x=0)
    axes.tick_params(labelsize=8)


def _with_gaps(forecast: OwnForecast) -> tuple[Times, Values, Values]:
    """Times, truth and quantiles with a NaN in each gap, so that no line is drawn across it."""
    ends = np.flatnonzero(np.diff(forecast.times) > 1.5 * forecast.period_ns) + 1
    times = np.insert(forecast.times, ends, forecast.times[ends - 1] + forecast.period_ns)
    return times, np.insert(forecast.truth, ends, np.nan), np.insert(forecast.quantiles, ends, np.nan, axis=0)


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=_QUIET)
    axes.set_yticks([])


def ahead(seconds: float) -> str:
    """A horizon in words."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"in {seconds / size:g} {unit}"
    return f"in {seconds:g} s"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 28 else f"{text[:27]}…"
