"""What the command line shows: values as tables for people. Nothing here asks anybody anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from icosfl.fleet.image_files import BuiltImage
from icosfl.fleet.inventory import Host
from icosfl.fleet.outlook import Outlook
from icosfl.fleet.preflight import Check
from icosfl.fleet.status import FleetStatus, HostStatus, ServiceStatus
from icosfl.fleet.watch import Reading, Value
from icosfl.serve.values import Forecast, Readiness
from icosfl.train.baselines import GLOBAL, NAMES
from icosfl.train.scores import SERVED, Summary

# Predictors as the heads of columns.
SHORT = {
    GLOBAL: "global",
    "persistence": "persist",
    "moving_average": "mean",
    "seasonal_naive": "season",
    "ar": "AR",
    "nlinear": "NLin",
}
UNITS = {"1": "", "MiBy": "MiB"}  # UCUM as people write it
VERSUS = ("skill", "of the", "global", "model", "vs")  # one over each baseline
LEVELS = {"ok": "green", "warning": "yellow", "failed": "bold red"}
MINUTE, HOUR, DAY = 60, 3600, 86400
# Where services of a host over SSH write; others have files.
_LOGS = {"systemd": "journalctl -u 'icosfl*'", "docker": "docker logs icosfl-SERVICE"}


def number(value: float | None, unit: str = "") -> str:
    """A value in its unit, to about three places; `-` when there is none."""
    if value is None:
        return "-"
    large = abs(value)
    places = 0 if large >= 1000 else 1 if large >= 100 else 2 if large >= 0.1 or large == 0 else 3
    return f"{value:.{places}f} {UNITS.get(unit, unit)}".strip()


def size(count: int) -> str:
    """Bytes as people say them: `26 MB`, `1.05 GB`."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `0.8 s`, `15 s`, `5 min`, `2 h 10 min`, `3 d 4 h`."""
    if seconds is None:
        return "-"
    if seconds < MINUTE:
        return f"{seconds:.1f} s" if seconds % 1 and seconds < 10 else f"{seconds:.0f} s"
    if seconds < HOUR:
        return _two(seconds, MINUTE, "min", 1, "s")
    return _two(seconds, HOUR, "h", MINUTE, "min") if seconds < DAY else _two(seconds, DAY, "d", HOUR, "h")


def _two(seconds: float, large: int, large_name: str, small: int, small_name: str) -> str:
    whole, rest = divmod(int(seconds), large)
    rest //= small
    return f"{whole} {large_name} {rest} {small_name}" if rest else f"{whole} {large_name}"


def _grid(*columns: str) -> Table:
    """A table without lines; > after a name puts it to the right, and only the last column may wrap."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for place, column in enumerate(columns, 1):
        table.add_column(
            column.removesuffix(">"),
            justify="right" if column.endswith(">") else "left",
            no_wrap=place < len(columns),
            overflow="fold",
        )
    return table


def image_screen(images: Iterable[BuiltImage]) -> RenderableType:
    """The images that were built, and how much each takes: on a disk, and on its way to a host."""
    parts: list[RenderableType] = []
    for image in images:
        each = image.manifest
        known = ("new", "green") if image.changed else (each.image[7:19], "dim")
        table = _grid("base>", "release>", "image>", "archive>", "built in>")
        sizes = (each.base_size, each.size - each.base_size, each.size, each.archive_size)
        table.add_row(*map(size, sizes), duration(each.built_seconds))
        parts += [Text.assemble((each.tag, "bold"), "  ", known), Text(f"on {each.base}"), table]
    return Group(*parts) if parts else Text("no image is built; icosfl up builds it where hosts run services in Docker")


def status_screen(status: FleetStatus) -> RenderableType:
    """Every host with its services."""
    return Group(*(part for host in status.hosts for part in _host(host)), _summary(status))


def _host(host: HostStatus) -> Iterator[RenderableType]:
    colour = "green" if host.green else "bold red"
    stopped = host.reason if not any(service.pid for service in host.services) else ""
    told = host.reason if host.condition == "no new rows" else stopped
    note = Text(told, style="dim") if host.services and told else _node(host.readiness)
    yield Text.assemble((host.host, "bold"), "  ", (host.condition, colour), "  ", note)
    if not host.services:
        yield Text(f"  {host.reason}", style="dim")
        yield Text(f"  cure: {host.cure}\n" if host.cure else "", style="cyan")
        return
    table = _grid("  service", "state", "pid>", "up>", "ports", "")
    for service in host.services:
        table.add_row(f"  {service.name}", *_service(service))
    yield table
    yield Text("")


def _service(service: ServiceStatus) -> tuple[RenderableType, ...]:
    return (
        Text(service.state, style="green" if service.green else "bold red"),
        str(service.pid or "-"),
        duration(service.uptime_seconds) if service.pid else "-",
        ", ".join(str(port) for port in service.ports.values()),
        Text(service.problem, style="red") if service.problem else Text(service.note, style="dim"),
    )


def _node(readiness: Readiness | None) -> Text:
    if readiness is None:
        return Text("")
    parts = []
    if readiness.store is not None:
        age = duration(readiness.store.age_seconds)
        parts.append(f"{readiness.store.rows} rows, newest {age} old")
    if readiness.model is not None:
        parts.append(f"model {readiness.model.digest[:12]}, round {readiness.model.round}")
    else:
        parts.append("no model yet")
    return Text(" · ".join(parts), style="dim")


def _summary(status: FleetStatus) -> Text:
    if status.green:
        return Text(f"{status.environment}: green, every service runs and works, and rows arrive", style="green")
    named = ", ".join(host.host for host in status.hosts if not host.green)
    return Text(f"{status.environment}: not green: {named}", style="bold red")


def watch_screen(readings: Sequence[Reading]) -> RenderableType:
    """Rows and newest values of every node."""
    series = [value.series for value in max((reading.values for reading in readings), key=len, default=())]
    table = _grid("host", "rows>", "", "age>", *(f"{name}>" for name in series), "")
    table.padding = (0, 1, 0, 0)
    for reading in readings:
        values = {value.series: value for value in reading.values}
        bar = ProgressBar(total=reading.needed, completed=min(reading.rows, reading.needed), width=10)
        note = Text("ready", style="green") if reading.ready else Text(reading.reason, style="yellow")
        rows = f"{reading.rows}/{reading.needed}"
        cells = [_value(values.get(name)) for name in series]
        table.add_row(reading.host, rows, bar, duration(reading.age_seconds), *cells, note)
    return table


def watch_line(readings: Sequence[Reading]) -> str:
    """The same in one line, for logs."""
    return "rows: " + " · ".join(
        f"{reading.host} {reading.rows}/{reading.needed}{' ready' if reading.ready else ''}" for reading in readings
    )


def _value(value: Value | None) -> str:
    return number(value.value, value.unit) if value is not None else "-"


def doctor_screen(checks: Sequence[Check]) -> RenderableType:
    """Every check, and under each that is not ok its cure."""
    table = _grid("check", "", "found")
    for check in checks:
        found = Text(check.found)
        if check.cure and check.level != "ok":
            found.append(f"\ncure: {check.cure}", style="cyan")
        table.add_row(check.name, Text(check.level, style=LEVELS[check.level]), found)
    return table


def forecast_screen(outlook: Outlook) -> RenderableType:
    """A node's forecasts beside what was measured, what serves them, and how good they are."""
    page, store = outlook.page, outlook.store
    title = Text.assemble((outlook.host, "bold"), f"  {store.rows} rows stored" if store else "")
    if page is not None and page.model is not None:
        title.append(f"  model {page.model.digest[:12]}, round {page.model.round}", style="dim")
    if page is None or not page.forecasts:
        return Group(title, Text(f"  no forecast: {outlook.problem}\n", style="yellow"))
    if page.evaluation is not None:
        title.append(f"  checked on {page.evaluation.scores.held_out_windows} windows", style="dim")
    interval = f"{page.interval:.0%}\ninterval>" if page.interval is not None else "\ninterval>"
    first = ("\nseries", "\nlast>", "\nahead>", "\nserved", "\nforecast>", interval, "\nheld>", "\nRMSE>")
    table = _grid(*first, *(f"{word}\n{SHORT[name]}>" for word, name in zip(VERSUS, NAMES, strict=True)))
    table.padding = (0, 1, 0, 0)
    for _, group in groupby(page.forecasts, key=lambda forecast: forecast.series):
        for index, forecast in enumerate(group):
            table.add_row(*_forecast(forecast, first=index == 0))
    notes = [f"{item.series}: not forecast: {item.reason}" for item in page.omitted]
    notes += [warning for warning in page.warnings if not any(item.reason in warning for item in page.omitted)]
    return Group(title, table, *(Text(f"  {note}", style="dim") for note in notes), Text(""))


def _forecast(forecast: Forecast, *, first: bool) -> Iterator[RenderableType]:
    yield forecast.series if first else ""
    yield number(forecast.last) if first else ""
    yield duration(forecast.horizon_seconds)
    yield SHORT.get(forecast.model, forecast.model)
    yield number(forecast.value, forecast.unit)
    lower, upper = number(forecast.lower), number(forecast.upper)
    yield f"{lower}…{upper}" if forecast.lower is not None and forecast.upper is not None else "-"
    yield share(forecast.coverage)
    served = forecast.errors.get(forecast.model)
    yield number(served.rmse if served else None)
    for baseline in NAMES:
        yield skill(forecast.skill.get(baseline))


def fleet_screen(summaries: Sequence[Summary]) -> RenderableType:
    """Over all nodes: how far off each predictor is, what nodes serve, and where the global model is the better one."""
    if not summaries:
        return Text("no node has measured its forecasts yet", style="yellow")
    first = ("series", "ahead>", "held>", SHORT[GLOBAL] + ">", "served>")
    table = _grid(*first, *(f"{SHORT[name]}>" for name in NAMES), "nodes serve")
    table.padding = (0, 1, 0, 0)
    for each in summaries:
        errors = (_mean_rmse(each, name) for name in (GLOBAL, SERVED, *NAMES))
        chosen = ", ".join(f"{SHORT.get(name, name)} {count}" for name, count in each.chosen.items() if count)
        table.add_row(each.series, duration(each.horizon_seconds), share(each.coverage), *errors, chosen)
        beats = (Text(share(each.beats.get(name)), style="dim") for name in NAMES)
        table.add_row(f"in {UNITS.get(each.unit, each.unit)}" if each.unit != "1" else "", *[""] * 4, *beats, "")
    note = "over all nodes: mean RMSE, and below each baseline the share of nodes on which the global model beats it"
    return Group(Text(note), table)


def _mean_rmse(summary: Summary, predictor: str) -> str:
    """The mean over the nodes; `-` for a predictor that was not measured on all of them: it cannot be compared."""
    mean = summary.means.get(predictor)
    return number(mean.rmse if mean is not None and mean.nodes == summary.nodes else None)


def share(value: float | None) -> str:
    """A share of a whole: `78%`; `-` when there is none."""
    return "-" if value is None else f"{value:.0%}"


def skill(value: float | None) -> Text:
    """A skill with its sign: green where the global model beats the baseline, red where it does not."""
    if value is None:
        return Text("-", style="dim")
    return Text(f"{value:+.2f}" if abs(value) < 10 else f"{value:+.0f}", style="green" if value > 0 else "red")


def skill_note() -> Text:
    """What the numbers mean."""
    return Text(
        "served: what did best on the older half of the newest rows, which none was taught. On their newer half: "
        "held = how often the interval held what came; RMSE = the error of what is served, in its unit; "
        "skill = 1 - RMSE of the global model / RMSE of the baseline, below 0 the baseline is better. "
        "mean: moving average, season: as one season ago.",
        style="dim",
    )


def where_to_look(hosts: Iterable[Host]) -> RenderableType:
    """Where each node answers, and what to ask next."""
    hosts = tuple(hosts)
    everywhere = all(host.is_local for host in hosts)
    table = _grid("where to look next", f"forecasts as JSON{'' if everywhere else ', on the host itself'}", "logs")
    for host in hosts:
        logs = _LOGS.get(host.runtime) or _short(host.paths["log"])
        table.add_row(f"  {host.name}", f"http://{host.endpoint('forecast')}/v1/forecast", logs)
    more = Text("  /metrics beside /v1/forecast: the same as Prometheus series\n")
    more.append("  what runs: icosfl status · live values: icosfl watch · every hop: icosfl verify")
    return Group(table, more)


def _short(path: Path) -> str:
    """A path from where the user stands, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
