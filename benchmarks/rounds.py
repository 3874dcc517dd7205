"""What a round takes beside the training: Flower as its own programs run it, and as this project runs it.

    .venv/bin/python benchmarks/rounds.py [--nodes 2 10 50] [--json FILE]

For each number of SuperNodes, on Flower's deployment engine on this machine, without TLS and with the SuperLink's state
in memory on either side, the SuperNodes at lower priority than the SuperLink:

- Flower, train + evaluate: `flower-superlink`, `flower-supernode` and FedAvg with their defaults;
- Flower, train only: the same SuperNodes, FedAvg told not to evaluate;
- ours: SuperNodes with `icosfl.fleet.executor` as the role runs them, the SuperLink with its executor, and the same
  FedAvg through `icosfl.aggregate.grid.BoundedGrid`; one exchange a round, because a node measures the model as it came
  before it trains it (all three do: it is the same code).

The app is a tiny LSTM of a usual Flower app (`measuring/rounds_app`), the same file on all sides. It is not icosfl's
own app, because Flower's loop cannot drive that one; what is measured is what the engine adds, the same for both. The
app steps without `torch.optim`'s class, as icosfl does: that spares each process of Flower's side a second.

Before the first round the ServerApp asks all nodes whether they are there, as icosfl does, on all sides; no round
counts that. Overhead of a round = its time less the longest training (and, where there is one, evaluation) of a node in
it. The first round of a run is shown by itself: our nodes may still load torch in it. The parts are those of the node
that was ready last: they add up to its round. SuperNodes look for messages every 3 s: that part is Flower's, and stays.
All nodes share this machine's cores: with many nodes, processes wait for each other on both sides.

With 50 nodes on two cores Flower's own side does not run: a ClientApp has 30 s from being claimed to its first sign of
life, loading Flower in 50 of them at once takes longer, and a SuperNode that waits for such a one waits for ever.

Ends with 1 if a round's overhead is more than half of Flower's with train and evaluate, or cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measuring  # noqa: F401 (one thread for matrices, before numpy is loaded)
import psutil
from measuring.deployment import Deployment, notes
from measuring.processes import directory_on_disk, machine
from rich.console import Console
from rich.table import Table

COUNTS = (2, 10, 50)
ROUNDS = {2: 8, 10: 5}  # the first included
ROUNDS_OF_MANY = 3
START_SECONDS = 400.0
ROUND_SECONDS = 300.0
WANTED = 0.5
LEAST_FREE_GIB = 1.5

PARTS = ("wait", "start", "load", "work", "back")
ABOUT = {
    "wait": "the SuperNode pulls every 3 s, its executor looks",
    "start": "a process, Flower loaded, the app unpacked and loaded",
    "load": "torch loaded",
    "work": "data, training, measuring",
    "back": "the SuperNode looks for the reply, the ServerApp too",
}


@dataclass(frozen=True)
class Case:
    """What was measured of one side with so many nodes.

    Args:
        name: Of the side.
        nodes: How many.
        first: Seconds of the first round.
        rounds: Seconds of each other round.
        overheads: Of these, less training.
        parts: Seconds of each part, median over these rounds.
        replies: The fewest replies of an exchange.
        seconds: From the first message to the end of the last round.
        idle: MiB a node before the run.
        busy: The most MiB a node in the run.
        load: Load average before and after.
        failed: Why it was given up.
    """

    name: str
    nodes: int
    first: float = 0.0
    rounds: tuple[float, ...] = ()
    overheads: tuple[float, ...] = ()
    parts: Mapping[str, float] | None = None
    replies: int = 0
    seconds: float = 0.0
    idle: float = 0.0
    busy: float = 0.0
    load: tuple[float, float] = (0.0, 0.0)
    failed: str = ""

    @property
    def overhead(self) -> float:
        """The median."""
        return statistics.median(self.overheads)


class TooLittle(Exception):
    """The machine has no memory left, or no time."""


def measure(deployment: Deployment, name: str, nodes: int, *, evaluate: bool, idle: float) -> Case:
    """Run rounds in a deployment that is up."""
    before = os.getloadavg()[0]
    rounds = ROUNDS.get(nodes, ROUNDS_OF_MANY)
    record = deployment.submit(rounds, evaluate=evaluate)
    busy, noted, last = 0.0, 0, time.monotonic()
    while not (found := notes(record)) or found[-1]["what"] != "finished":
        if len(found) > noted:
            noted, last = len(found), time.monotonic()
            there = [note["nodes"] for note in found if note["what"] == "there"]
            if there and there[0] < nodes:
                raise TooLittle(f"{there[0]} of {nodes} nodes replied when they were first asked")
        if time.monotonic() - last > ROUND_SECONDS:
            raise TooLittle(f"nothing happened for {ROUND_SECONDS:g} s")
        if psutil.virtual_memory().available < LEAST_FREE_GIB * 2**30:
            raise TooLittle("this machine has too little memory for so many nodes")
        busy = max(busy, deployment.memory_of_nodes(most=2))
        time.sleep(1 + nodes / 25)
    return _case(found, name, nodes, evaluate, idle, busy, (before, os.getloadavg()[0]))


def _case(  # noqa: PLR0913, PLR0917 (each is one plain value)
    found: Sequence[Mapping[str, Any]],
    name: str,
    nodes: int,
    evaluate: bool,
    idle: float,
    busy: float,
    load: tuple[float, float],
) -> Case:
    begins = [note["time"] for note in found if note["what"] == "train"]
    times = [after - before for before, after in zip(begins, [*begins[1:], found[-1]["time"]], strict=True)]
    exchanges = [("train", "trained"), ("evaluate", "evaluated")][: 1 + evaluate]
    each: list[dict[str, float]] = []
    work: list[float] = []
    replies: list[int] = []
    for number in range(1, len(times) + 1):
        parts = dict.fromkeys(PARTS, 0.0)
        longest = 0.0
        for sent, had in exchanges:
            (sending,) = (note for note in found if (note["what"], note["round"]) == (sent, number))
            (having,) = (note for note in found if (note["what"], note["round"]) == (had, number))
            replies.append(len(having["replies"]))
            last = max(having["replies"], key=lambda marks: marks["done"])
            edges = [sending["time"], last["created"], last["called"], last["imported"], last["done"], having["time"]]
            for part, begin, end in zip(PARTS, edges[:-1], edges[1:], strict=True):
                parts[part] += end - begin
            longest += max(marks["done"] - marks["imported"] for marks in having["replies"])
        each.append(parts)
        work.append(longest)
    return Case(
        name=name,
        nodes=nodes,
        first=times[0],
        rounds=tuple(times[1:]),
        overheads=tuple(time - longest for time, longest in zip(times[1:], work[1:], strict=True)),
        parts={part: statistics.median(one[part] for one in each[1:]) for part in PARTS},
        replies=min(replies),
        seconds=found[-1]["time"] - begins[0],
        idle=idle,
        busy=busy,
        load=load,
    )


def compare(directory: Path, nodes: int) -> list[Case]:
    """Measure all sides with so many nodes, one after the other."""
    cases = []
    for ours, runs in (
        (False, (("Flower, train + evaluate", True), ("Flower, train only", False))),
        (True, (("ours", False),)),
    ):
        name = runs[0][0]
        try:
            with Deployment(directory / f"{nodes}-{'ours' if ours else 'flower'}", nodes, ours) as deployment:
                deployment.wait(START_SECONDS)
                idle = deployment.settled_memory()
                for name, evaluate in runs:
                    cases.append(measure(deployment, name, nodes, evaluate=evaluate, idle=idle))
        except TooLittle as error:
            cases.append(Case(name, nodes, failed=str(error)))
    return cases


def table(cases: Sequence[Case]) -> Table:
    """The sides beside each other."""
    nodes = cases[0].nodes
    shown = Table(title=f"{nodes} SuperNodes, seconds of a round (medians)", title_justify="left")
    shown.add_column("")
    for case in cases:
        shown.add_column(case.name, justify="right")
    whole = [case for case in cases if not case.failed]

    def row(what: str, cells: Iterable[str]) -> None:
        told = dict(zip([case.name for case in whole], cells, strict=True))
        shown.add_row(what, *(told.get(case.name, "-") for case in cases))

    row("a round", (_spread(case.rounds) for case in whole))
    row("[bold]overhead[/bold]: less training", (f"[bold]{_spread(case.overheads)}[/bold]" for case in whole))
    for part in PARTS:
        row(f"  {part}: {ABOUT[part]}", (f"{(case.parts or {})[part]:.2f}" for case in whole))
    row("first round", (f"{case.first:.1f}" for case in whole))
    row("all rounds", (f"{case.seconds:.1f}" for case in whole))
    row("replies at least", (f"{case.replies} of {nodes}" for case in whole))
    row("MiB a node, idle before (PSS)", (f"{case.idle:.0f}" for case in whole))
    row("MiB a node, most at work (PSS)", (f"{case.busy:.0f}" for case in whole))
    row("load average before, after", (f"{case.load[0]:.1f}, {case.load[1]:.1f}" for case in whole))
    return shown


def verdict(cases: Sequence[Case]) -> tuple[str, bool]:
    """Whether the bar is reached, in a line."""
    nodes = cases[0].nodes
    failed = [f"{case.name}: {case.failed}" for case in cases if case.failed]
    if failed:
        told = [f"{case.name}: {case.overhead:.2f} s" for case in cases if not case.failed]
        return f"NOT COMPARED  with {nodes} nodes: {'; '.join([*failed, *told])}", False
    both, train, ours = cases
    share, more = ours.overhead / both.overhead, ours.overhead / train.overhead
    reached = share <= WANTED
    return (
        f"{'PASS' if reached else 'FAIL'}  with {nodes} nodes at most {WANTED:.0%} of Flower's overhead with train and "
        f"evaluate: {share:.0%} ({ours.overhead:.2f} s to {both.overhead:.2f} s); of its train only: {more:.0%}"
    ), reached


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.1f} to {max(values):.1f})"


def main() -> int:
    """Print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=COUNTS, help="how many SuperNodes (default: 2 10 50)")
    parser.add_argument("--json", type=Path, help="where all that was measured goes")
    given = parser.parse_args()
    console = Console(width=130, soft_wrap=True, highlight=False)
    console.print(machine())
    lines, whole, measured = [], True, []
    with directory_on_disk() as directory:
        for nodes in given.nodes:
            cases = compare(directory, nodes)
            console.print(table(cases))
            line, reached = verdict(cases)
            console.print(line)
            lines.append(line)
            whole = whole and reached
            measured += [asdict(case) for case in cases]
    if given.json:
        given.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    if len(lines) > 1:
        console.print("\n".join(["", *lines]))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
