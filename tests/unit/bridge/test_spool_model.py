"""Any sequence of appends, forgets, restarts and torn writes, against a plain list."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from icosfl.bridge.spool import Spool, SpoolLimits
from icosfl.bridge.spool_format import payload_of, record_of, seed_of
from icosfl.errors import SpoolFull
from support.spools import files_in, opened, times_in
from support.store_contract import SCHEMA, rows

LIMITS = SpoolLimits(4096, "never", 1.0)


class SpoolAndList(RuleBasedStateMachine):
    """The list holds (number, times) of all that was acknowledged."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.spool: Spool = opened(self.path, limits=LIMITS)
        self.acknowledged: list[tuple[int, list[int]]] = []
        self.forgotten = 0

    @property
    def path(self) -> Path:
        return Path(self.directory.name)

    @rule(start=st.integers(-(2**40), 2**40), count=st.integers(1, 20))
    def append(self, start: int, count: int) -> None:
        times = list(range(start, start + count))
        before = self.spool.last
        try:
            number = self.spool.append(rows(*times))
        except SpoolFull:
            assert self.spool.bytes > LIMITS.max_bytes // 2
            return
        assert number == before + 1
        self.acknowledged.append((number, times))

    @rule(share=st.floats(0, 1))
    def forget(self, share: float) -> None:
        self.forgotten = max(self.forgotten, round(share * self.spool.last))
        self.spool.forget(self.forgotten)

    @rule(torn=st.integers(0, 60))
    def restart(self, torn: int) -> None:
        """As after a kill amid a write, of which `torn` bytes are there."""
        last = self.spool.last
        self.spool.close()
        with files_in(self.path)[-1].open("ab") as file:
            file.write(record_of(last + 1, payload_of(rows(1, 2)), seed_of(SCHEMA))[:torn])
        self.spool = opened(self.path, limits=LIMITS)
        assert self.spool.last == last
        assert self.spool.damaged == 0
        assert self.spool.forgotten <= self.forgotten  # what has gone had been forgotten; what had not may come back
        self.forgotten = self.spool.forgotten

    @invariant()
    def what_is_not_forgotten_is_there_in_order(self) -> None:
        expected = [(number, times) for number, times in self.acknowledged if number > self.forgotten]
        assert list(times_in(self.spool).items()) == expected
        assert self.spool.records == len(expected)
        assert self.spool.oldest_time == (expected[0][1][0] if expected else None)
        assert sum(path.stat().st_size for path in files_in(self.path)) == self.spool.bytes <= LIMITS.max_bytes

    def teardown(self) -> None:
        self.spool.close()
        self.directory.cleanup()


TestSpoolAndList = SpoolAndList.TestCase
TestSpoolAndList.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
