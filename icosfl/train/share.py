"""Which of a host's rows a SuperNode works on, where several of them run on one host.

Part k of n has the k-th of n contiguous shares, so that no row counts twice, and a name of its own: worker-1/2. New
rows move the shares on. What a part is trained on lies before its cutoff, which stays for the whole run, so it never
reaches into another's; and what it is measured on ends where its share ended when the cutoff was made, for what lies
behind was taught by the next part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from icosfl.errors import ConfigError, NotReady
from icosfl.schema import Rows
from icosfl.train.local import ROUNDING

MOST_PARTS = 16


@dataclass(frozen=True, slots=True)
class Share:
    """Part `part` of `parts`, from 1."""

    part: int
    parts: int

    @classmethod
    def of(cls, node_config: Mapping[str, object]) -> Share:
        """Return what the SuperNode's own configuration says: `part` and `parts`; the whole when it says nothing.

        Raises:
            ConfigError: these are no part and number of parts.
        """
        part, parts = node_config.get("part", 1), node_config.get("parts", 1)
        for value in (part, parts):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PARTS:
                raise _wrong(part, parts)
        if not isinstance(part, int) or not isinstance(parts, int) or part > parts:
            raise _wrong(part, parts)
        return cls(part, parts)

    @property
    def has_newest(self) -> bool:
        """Whether the host's newest rows are in this share, so that forecasts are judged by it."""
        return self.part == self.parts

    def name(self, host: str) -> str:
        """Return what the SuperNode is called in a run: the host, and which part of it where there are several."""
        return host if self.parts == 1 else f"{host}/{self.part}"

    def take(self, rows: Rows) -> Rows:
        """Return the rows of this share as of now."""
        start, end = (len(rows) * bound // self.parts for bound in (self.part - 1, self.part))
        return Rows(rows.times[start:end], rows.values[start:end])

    def take_at(self, rows: Rows, cutoff_ns: int | None, train_fraction: float) -> Rows:
        """Return the rows of this share during a run that set its cutoff when it began.

        Args:
            rows: All rows of the host.
            cutoff_ns: The share's own, nanoseconds since the epoch; None when the run began without this node.
            train_fraction: The share of the rows before the cutoff, as of then.

        Raises:
            NotReady: without a cutoff nobody knows which rows the next part was taught.
        """
        if self.parts == 1:
            return rows
        share = self.take(rows)
        if self.has_newest:
            return share
        if cutoff_ns is None:
            raise NotReady("the run began without it, so that its share may hold rows that the next part was taught")
        start = len(rows) * (self.part - 1) // self.parts
        before = max(int((rows.times <= cutoff_ns).sum()) - start, 0)
        # One row is the least before a cutoff, however few the share had: nothing follows from it.
        end = start + (math.floor(before / train_fraction + ROUNDING) if before > 1 else before)
        return Rows(rows.times[start:end], rows.values[start:end])


WHOLE = Share(1, 1)


def _wrong(part: object, parts: object) -> ConfigError:
    return ConfigError(
        f"the SuperNode is part {part!r} of {parts!r} of its host, expected whole numbers from 1 to {MOST_PARTS}",
        cure="correct icosfl_supernodes and run site.yml again",
    )
