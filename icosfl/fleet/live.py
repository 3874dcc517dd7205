"""Shows a watch: a table that renews itself in a terminal, a line now and then in a log, JSON lines for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.live import Live

from icosfl.fleet.screens import watch_line, watch_screen
from icosfl.fleet.watch import Reading

LINE_SECONDS = 10.0

Readings = Iterable[Sequence[Reading]]


def show_table(console: Console, found: Readings) -> None:
    """Renew one table with each reading; the last one stays."""
    with Live(console=console, auto_refresh=False) as live:
        for readings in found:
            live.update(watch_screen(readings), refresh=True)


def show_lines(console: Console, found: Readings, clock: Callable[[], float] = time.monotonic) -> None:
    """Print a line for the first reading, then one every ten seconds, and the table of the last reading."""
    due = clock()
    last: Sequence[Reading] = ()
    try:
        for readings in found:
            last = readings
            if clock() >= due:
                console.print(watch_line(readings), soft_wrap=True)
                due = clock() + LINE_SECONDS
    finally:
        console.print(watch_screen(last))
