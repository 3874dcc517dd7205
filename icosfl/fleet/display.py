"""Shows a playbook as it runs and how it ended: live lines in a terminal, plain ones in a log, none for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from icosfl.fleet.events import Failure, HostDone, ItemDone, Outcome, PlayStarted, Recapped, Step, Tally
from icosfl.fleet.runner import Display, PlaybookResult

STYLES: dict[Outcome, str] = {
    "ok": "green",
    "changed": "yellow",
    "skipped": "dim",
    "failed": "bold red",
    "unreachable": "bold red",
}
GENERAL_CURE = "remove the cause and run the command again"
SHOWN: tuple[Outcome, ...] = ("ok", "changed", "failed", "unreachable")


def display_for(console: Console, *, quiet: bool, lines: bool = True) -> PlaybookDisplay:
    """The display that fits: nothing for programs, live in a terminal, plain lines elsewhere.

    Args:
        console: Where people read.
        quiet: Whether a program reads instead.
        lines: Whether what tasks say is shown.
    """
    if quiet:
        return Silent()
    return LiveDisplay(console, lines=lines) if console.is_terminal else PlainDisplay(console, lines=lines)


class PlaybookDisplay(Display, Protocol):
    """A display that needs to be set up and taken down."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Hold the terminal for as long as the playbook runs."""
        yield


class Silent(PlaybookDisplay):
    """Shows nothing."""

    def show(self, step: Step, tally: Tally) -> None:
        """Show nothing."""

    def tick(self) -> None:
        """Show nothing."""


class PlainDisplay(PlaybookDisplay):
    """Prints one line a play when it ends, and what tasks say, as they say it."""

    def __init__(self, console: Console, *, lines: bool = True) -> None:
        self.console = console
        self._lines = lines
        self._play = ""
        self._counts: dict[Outcome, int] = {}
        self._started = time.monotonic()

    def show(self, step: Step, tally: Tally) -> None:
        """Print what the step adds."""
        if isinstance(step, (PlayStarted, Recapped)):
            self._end_play()
            self._play, self._started = ("" if isinstance(step, Recapped) else tally.play), time.monotonic()
        elif isinstance(step, (HostDone, ItemDone)):
            for line in step.lines if self._lines else ():
                self.console.print(Text(f"    {line}"), soft_wrap=True)
            if isinstance(step, HostDone) and step.failure and not step.ignored:
                self.console.print(
                    Text(f"    {step.host}: {step.outcome} at: {tally.task}", style="red"), soft_wrap=True
                )
        self._counts = tally.counts

    def tick(self) -> None:
        """Nothing turns."""

    def _end_play(self) -> None:
        if self._play:
            seconds = time.monotonic() - self._started
            bad = bool(self._counts.get("failed") or self._counts.get("unreachable"))
            mark = Text("✗ " if bad else "✓ ", style="bold red" if bad else "green")
            line = Text.assemble(mark, self._play, "  ", counts_text(self._counts), (f"  {seconds:.1f} s", "dim"))
            self.console.print(line, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """As plain, with a last line that turns and tells the play, the task and the hosts that have finished it."""

    def __init__(self, console: Console, *, lines: bool = True) -> None:
        super().__init__(console, lines=lines)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._spinner = Spinner("dots", style="cyan")
        self._line = Text("starting Ansible", style="dim")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Hold the terminal's last line."""
        with self._live:
            yield

    def show(self, step: Step, tally: Tally) -> None:
        """Print what the step adds, and renew the last line."""
        super().show(step, tally)
        done = ", ".join(sorted(tally.hosts))
        self._line = Text.assemble(
            (tally.play, "bold"), (" / ", "dim"), tally.task, (f"  {done}", "dim") if done else "", no_wrap=True
        )
        if isinstance(step, Recapped):
            self._line = Text("ending", style="dim")
        self._line.overflow = "ellipsis"
        self.tick()

    def tick(self) -> None:
        """Turn the spinner."""
        row = Table.grid(padding=(0, 1))
        row.add_row(self._spinner, self._line)
        self._live.update(row, refresh=True)


def counts_text(counts: dict[Outcome, int]) -> Text:
    """`ok 12 · changed 3`, coloured, without the outcomes that did not happen."""
    parts = [Text(f"{outcome} {counts[outcome]}", style=STYLES[outcome]) for outcome in SHOWN if counts.get(outcome)]
    return Text(" · ", style="dim").join(parts)


def recap_table(result: PlaybookResult) -> Table:
    """How many tasks ended how, one row a host."""
    table = Table("host", box=None, pad_edge=False, header_style="dim")
    for outcome in SHOWN:
        table.add_column(outcome, justify="right")
    for host in result.hosts:
        numbers = (host.ok - host.changed, host.changed, host.failed, host.unreachable)
        cells = [
            Text(str(number), style=STYLES[outcome] if number else "dim")
            for outcome, number in zip(SHOWN, numbers, strict=True)
        ]
        table.add_row(host.host, *cells)
    return table


def result_screen(result: PlaybookResult) -> RenderableType:
    """How a playbook ended: each failure with host, task, message and cure, the counts by host, and a last line."""
    parts: list[RenderableType] = [_panel(result, failure) for failure in result.failures]
    if result.hosts:
        parts.append(recap_table(result))
    style = {"ok": "green", "failed": "bold red", "interrupted": "yellow"}[result.status]
    changed = f"changed={result.changed}" if result.hosts else ""
    parts.append(
        Text.assemble(
            (f"{result.playbook}: {result.status}", style), f"  {changed}  {result.seconds:.0f} s", overflow="fold"
        )
    )
    if result.status == "interrupted":
        parts.append(Text("what was done stays; the same command goes on from there", style="dim"))
    if result.status != "ok" and result.log is not None:
        parts.append(Text(f"Ansible's whole output: {result.log}", overflow="fold"))
    return Group(*parts)


def _panel(result: PlaybookResult, failure: Failure) -> Panel:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim")
    rows.add_column(overflow="fold")
    for name, text in (
        ("host", failure.host),
        ("play", failure.play),
        ("task", failure.task),
        ("message", failure.message),
        ("cure", failure.cure or GENERAL_CURE),
    ):
        if text:
            rows.add_row(name, Text(text))
    title = f"{failure.host or result.playbook} failed"
    return Panel(rows, title=escape(title), title_align="left", border_style="red")
