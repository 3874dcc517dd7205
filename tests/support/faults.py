"""A node's data plane that is killed while a sender streams into it, and the account of every point."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from grpc_health.v1.health_pb2 import HealthCheckResponse

from icosfl.config import BridgeConfig, load
from icosfl.schema import Rows
from icosfl.store import open_store
from support.bridge_service import SCHEMA, bridge_of, wait_for_health
from support.dataclay_stack import DataclayStack, SupervisedProcess
from support.streams import SERIES, Stream

ALIAS = "faults"
CAPACITY = 100_000

_NEED_REDIS = ("metadata", "backend")
_POINTS_AROUND = 20


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a phase's points."""

    fault: str
    acknowledged: int
    sent_again: int
    lost: int
    duplicated: int


@dataclass(frozen=True, slots=True)
class Phase:
    """The points that were acknowledged around a fault, and until all was well after it: numbers by time."""

    fault: str
    points: dict[int, int]
    sent_again: int


class FaultyNode:
    """Bridge, backend, metadata service and Redis, each a supervised process, and a stream of points.

    Args:
        directory: Where all of it lies.
    """

    def __init__(self, directory: Path) -> None:
        self.stack = DataclayStack(directory, checkpoint_seconds=0.3)
        config = self.stack.store_config(ALIAS, CAPACITY, deadline_seconds=5)
        listen, command = bridge_of(directory, config)
        self.bridge = SupervisedProcess("bridge", command, directory / "bridge.log", listen)
        self.bridge_config = load(directory / "bridge.toml", BridgeConfig)
        self.services = self.stack.services | {"bridge": self.bridge}
        self.store = open_store(self.stack.store_config(ALIAS, CAPACITY), SCHEMA)
        self.stream = Stream(listen)
        self.phases: list[Phase] = []

    def start(self) -> None:
        """Start all, and the stream into it."""
        self.stack.start()
        self.bridge.start()
        self.stream.start()
        self._wait_until_all_is_well()

    def stop(self) -> None:
        """Stop all."""
        self.stream.stop()
        self.store.close()
        self.bridge.end(signal.SIGTERM)
        self.stack.stop()

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """What happens in the block is a fault of the table; after it all must become well again without a person."""
        self.stream.wait_for_more(_POINTS_AROUND)
        try:
            yield
            self.stream.wait_for_more(_POINTS_AROUND)
            self._wait_until_all_is_well()
        finally:
            self._note_phase(name)
        self.wait_for_points()

    def _note_phase(self, name: str) -> None:
        before = {when for phase in self.phases for when in phase.points}
        sent_again = sum(phase.sent_again for phase in self.phases)
        points = {when: number for when, number in self.stream.acknowledged.copy().items() if when not in before}
        self.phases.append(Phase(name, points, self.stream.sent_again - sent_again))

    def crash(self, *names: str) -> None:
        """Kill services with SIGKILL; return once each, and those that cannot go on without it, was started again."""
        hit = {*names, *(_NEED_REDIS if "redis" in names else ())}
        starts = {name: self.services[name].starts for name in hit}
        for name in names:
            self.services[name].crash()
        for name, number in starts.items():
            self.services[name].wait_for_start(number + 1)

    def _wait_until_all_is_well(self) -> None:
        """Return once all answer and say that all is well, and the store has what was acknowledged, and checkpoints."""
        wait_for_health(self.bridge_config.listen, HealthCheckResponse.SERVING)
        end = time.monotonic() + 30
        while (told := self.readiness()) != {"ready": True, "reasons": [], "store": "answers"}:
            assert time.monotonic() < end, told
            time.sleep(0.05)
        with open_store(self.stack.store_config(ALIAS, CAPACITY), SCHEMA, read_only=True) as newcomer:
            newcomer.info()
            while newcomer.saved().sequence < 0:
                assert time.monotonic() < end, f"no two checkpoints: {self.logs()}"
                time.sleep(0.05)
        self.wait_for_points()

    def readiness(self) -> dict[str, object]:
        """What the bridge's page /readyz says."""
        try:
            with urllib.request.urlopen(f"http://{self.bridge_config.metrics_listen}/readyz", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def wait_for_points(self, seconds: float = 30) -> None:
        """Return once all points that are acknowledged now are in the window, or fail and say how many are not."""
        wanted = set(self.stream.acknowledged)
        end = time.monotonic() + seconds
        while True:
            window = self.store.window()
            missing = wanted.difference(window.rows.times.tolist())
            if not missing:
                return
            assert time.monotonic() < end, f"{len(missing)} of {len(wanted)} points are not in the store: {self.logs()}"
            self.store.wait(window.position, 1.0)

    def accounts(self) -> list[Account]:
        """What is in the store of every phase's points, by one read of the whole window."""
        return accounts_of(self.phases, self.store.window().rows)

    def logs(self) -> str:
        """The ends of all logs."""
        return "".join(f"\n--- {each.name}\n{each.log.read_text()[-3000:]}" for each in self.services.values())


def accounts_of(phases: list[Phase], rows: Rows) -> list[Account]:
    """What is in these rows of every phase's points."""
    numbers = rows.values[:, SCHEMA.index(SERIES)].tolist()
    found = dict(zip(rows.times.tolist(), numbers, strict=True))
    often = Counter(numbers)
    return [
        Account(
            phase.fault,
            len(phase.points),
            phase.sent_again,
            lost=sum(found.get(when) != number for when, number in phase.points.items()),
            duplicated=sum(often[number] > 1 for number in phase.points.values()),
        )
        for phase in phases
    ]


def table_of(accounts: list[Account]) -> str:
    """The accounts as a table with a line for each fault."""
    head = ("fault", "acknowledged", "sent again", "lost", "duplicated")
    lines = [head, *(tuple(str(cell) for cell in astuple(account)) for account in accounts)]
    lines.append(("all", *(str(sum(row)) for row in zip(*(astuple(account)[1:] for account in accounts), strict=True))))
    wide = max(len(line[0]) for line in lines)
    return "\n".join(f"{first:<{wide}}" + "".join(f"{cell:>14}" for cell in rest) for first, *rest in lines)
