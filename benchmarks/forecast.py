"""How good forecasts are on real recordings: rolling origins, several seeds, beside baselines and ICOS-FL's algorithm.

    scripts/bench-forecast [--data hosts|datacenters|recording|all] [--recording TRACE.csv] [--seeds 5] [--picture PNG]

What the product does is done by the product's own functions, in one process: each node's linear part, FedAvg of the
network, choice and calibration. The federated model is compared with the same trained on pooled windows, on each node
alone, trained further on each node, and without the nodes' own linear parts. Ends with 1 if a bar is missed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from measuring import fleets, tables
from measuring.federation import Recipe
from measuring.fleets import Fleet, Unavailable
from measuring.processes import machine
from measuring.study import ORIGINS, Results, steps, study
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from icosfl.errors import InputError
from icosfl.train import loop
from icosfl.train.shape import NETWORKS

ALL = "all"
QUICK_ROWS = 2500
WIDTH = 190


def arguments() -> Namespace:
    """What was asked for."""
    parser = ArgumentParser(description="How good forecasts are on real recordings.")
    parser.add_argument("--data", choices=["hosts", "datacenters", "recording", ALL], default=ALL)
    parser.add_argument("--recording", type=Path, help="a trace of one machine (docs: icosfl.collect.trace)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, the last origin, the newest rows")
    parser.add_argument("--picture", type=Path, help="draw forecasts and errors into this PNG, one a fleet")
    parser.add_argument("--json", type=Path, help="write all means into this file")
    ablations = parser.add_argument_group("another model than the product's defaults")
    ablations.add_argument("--network", choices=sorted(NETWORKS))
    ablations.add_argument("--hidden-size", type=int)
    ablations.add_argument("--num-server-rounds", type=int)
    ablations.add_argument("--local-epochs", type=int)
    ablations.add_argument("--learning-rate", type=float)
    ablations.add_argument("--batch-size", type=int)
    ablations.add_argument("--no-calendar", action="store_true", help="the time of day is not told")
    return parser.parse_args()


def chosen(options: Namespace, console: Console) -> Iterator[Fleet]:
    """The fleets that were asked for and are there; of the others is said why not."""
    makers: dict[str, Callable[[], Fleet]] = {"hosts": fleets.hosts, "datacenters": fleets.datacenters}
    if options.recording:
        makers["recording"] = lambda: fleets.recording(options.recording)
    elif options.data == "recording":
        raise SystemExit("name a trace: --recording TRACE.csv")
    for name, make in makers.items():
        if options.data not in {name, ALL}:
            continue
        try:
            yield make()
        except (Unavailable, InputError) as error:
            console.print(f"{name} is skipped: {error}", soft_wrap=True)


def recipe_of(options: Namespace) -> Recipe:
    """The product's defaults, with what was asked for instead."""
    recipe = Recipe.of_the_product()
    asked = {name: getattr(options, name) for name in recipe.__dataclass_fields__}
    return replace(recipe, **{name: value for name, value in asked.items() if value is not None})


def load() -> str:
    """How busy the machine is."""
    return "load " + " ".join(f"{value:.1f}" for value in os.getloadavg())


def measure(fleet: Fleet, options: Namespace, recipe: Recipe) -> Results:
    """Evaluate one fleet, and show on standard error how far it is."""
    seeds = range(1, 2 if options.quick else options.seeds + 1)
    origins = ORIGINS[-1:] if options.quick else ORIGINS
    if options.quick:
        fleet = replace(fleet, nodes={name: rows.tail(QUICK_ROWS) for name, rows in fleet.nodes.items()})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(fleet.name, total=steps(fleet, seeds, origins))

        def step(what: str) -> None:
            progress.update(task, description=what, advance=1)

        return study(fleet, recipe, seeds, origins, step)


def main() -> int:
    """Measure, print, draw."""
    options = arguments()
    console = Console(width=WIDTH)
    recipe = recipe_of(options)
    if options.no_calendar:
        loop.LEAST_DAYS = sys.maxsize
    begun = time.monotonic()
    console.print(f"{machine()}; {load()} at the start", highlight=False)
    console.print(f"{recipe}; window {fleets.WINDOW}, horizons {fleets.HORIZONS}", highlight=False)
    found: list[Results] = []
    for fleet in chosen(options, console):
        results = measure(fleet, options, recipe)
        tables.show(console, results)
        found.append(results)
        if options.picture:
            from measuring.picture import draw

            place = options.picture.with_stem(f"{options.picture.stem}-{fleet.name}")
            draw(results, place)
            console.print(f"drawn: {place}", highlight=False)
    verdict = [bar for results in found if results.fleet.name == "hosts" for bar in tables.bars(results)]
    console.print()
    tables.show_bars(console, verdict)
    console.print(f"{time.monotonic() - begun:.0f} s; {load()} at the end", highlight=False)
    if options.json:
        options.json.write_text(json.dumps({results.fleet.name: tables.plain(results) for results in found}, indent=1))
    return 0 if all(bar.reached for bar in verdict) else 1


if __name__ == "__main__":
    sys.exit(main())
