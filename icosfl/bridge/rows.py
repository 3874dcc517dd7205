"""From points to rows of the store. Pure.

Senders give the points of one collection slightly different times. Points that lie within a tolerance of the earliest
of them make one row, at that earliest time; a repeated request makes the same rows again, so that storing it twice
changes nothing.

A point that feeds a source is a match; the matches of one source in one row give one value, or none for a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icosfl.bridge.columns import Points
from icosfl.bridge.identities import Stream
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rules import SourceTable
from icosfl.schema import Rows, Values

_REASONS = tuple(Reason)
_STORED = len(_REASONS)
_OTHER_ATTRIBUTES, _AMBIGUOUS, _INCOMPLETE, _NOT_FINITE, _SUPERSEDED = map(
    _REASONS.index,
    (Reason.OTHER_ATTRIBUTES, Reason.AMBIGUOUS, Reason.INCOMPLETE, Reason.NOT_FINITE, Reason.SUPERSEDED),
)

_Ints = NDArray[np.intp]
_Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How rows are made of the times and values of points.

    Args:
        times: The point whose time each row has.
        rows: The row of each value.
        columns: Its column.
        points: The point that it is of.
        minus: The point whose value is taken away; the same one where none is.
        less: Whether one is.
        scales: What the difference is multiplied with.
        width: How many columns a row has.
    """

    times: _Ints
    rows: _Ints
    columns: _Ints
    points: _Ints
    minus: _Ints
    less: _Flags
    scales: Values
    width: int

    def values(self, values: Values) -> Values:
        """The values of the rows, made of those of the points."""
        return _combined(values[self.points], values[self.minus], self.less, self.scales)

    def make(self, times: NDArray[np.uint64], values: Values) -> Rows:
        """The rows, of the times of the points and of the rows' values."""
        table = np.full((len(self.times), self.width), np.nan)
        table[self.rows, self.columns] = values
        return Rows(times[self.times].astype(np.int64), table)


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The rows and how they were made, and what became of each point: the number of a `Reason`, or of none if it is in.

    The recipe holds for other points of the same streams that lie as far from one another in time, as long as all of
    its values are finite, here as there.
    """

    rows: Rows
    fates: _Ints
    recipe: Recipe | None = None

    @property
    def reasons(self) -> tuple[Reason | None, ...]:
        """Why each point does not stand in a row; None for one that does."""
        return tuple((*_REASONS, None)[fate] for fate in self.fates)

    @property
    def stored(self) -> int:
        """How many points stand in the rows."""
        return int(np.count_nonzero(self.fates == _STORED))

    @property
    def left_out(self) -> Counter[Reason]:
        """How many points do not, by reason."""
        counts = np.bincount(self.fates, minlength=_STORED).tolist()
        return Counter({reason: count for reason, count in zip(_REASONS, counts, strict=False) if count})


@dataclass(frozen=True, slots=True, eq=False)
class _Matches:
    """Every pair of a point and a source that takes it: by row, in it by target, and there by time.

    Args:
        points: The number of the point.
        cells: `row * number of targets + target`, which ascends.
        order: The place in the order of time; of equal times the later point of the request comes later.
        row_points: The first point of each row, whose time it has.
    """

    points: _Ints
    cells: _Ints
    order: _Ints
    row_points: _Ints


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The newest match of each target in each row, which is the one that counts; and the older ones.

    Args:
        last: The place of the newest match.
        older: The places of the older ones.
        older_of: For each of these its cell.
        ambiguous: Whether an older match of the cell is of another stream.
    """

    last: _Ints
    older: _Ints
    older_of: _Ints
    ambiguous: _Flags


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """What each source makes in each row of its one or two cells, which are neighbours: by row, in it by column.

    Args:
        first: The first of the cells.
        second: The last of them: the same if there is but one.
        rows: The row.
        sources: The number of the source.
        values: The value.
        fates: What becomes of its matches: `_STORED`, or the reason why there is no value.
    """

    first: _Ints
    second: _Ints
    rows: _Ints
    sources: _Ints
    values: Values
    fates: _Ints


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How points of a template were joined, for the next ones that lie as far from one another in time.

    Args:
        spacing: The time of each point after the first one's.
        recipe: How their rows were made.
        fates: What became of them.
    """

    spacing: NDArray[np.uint64]
    recipe: Recipe
    fates: _Ints

    @classmethod
    def of(cls, points: Points, joined: Joined) -> Plan | None:
        """The plan by which these points were joined, None where their values had a part in it."""
        return None if joined.recipe is None else cls(points.times - points.times[0], joined.recipe, joined.fates)

    def join(self, points: Points) -> Joined | None:
        """What `join` returns, None if the points are to be joined anew."""
        if not np.array_equal(points.times - points.times[0], self.spacing):
            return None
        values = self.recipe.values(points.values)
        if not np.isfinite(values).all():
            return None
        return Joined(self.recipe.make(points.times, values), self.fates, self.recipe)


def join(points: Points, sources: SourceTable, width: int, tolerance: int) -> Joined:
    """Join points to rows.

    Inside a row the last value of a stream wins, and of two rules that fill one column the later value. Two streams
    (points that differ in attributes or resource) of one source have no common value: both are left out.

    Args:
        points: The valid points of a request.
        sources: What the targets of their streams mean; columns are less than `width`.
        width: How many columns a row has.
        tolerance: How far, in ns, a point may lie behind the first one of its row.
    """
    matches = _match(points, 2 * len(sources), tolerance)
    if not len(matches.points):
        return Joined(Rows.empty(width), np.full(len(points), _OTHER_ATTRIBUTES, np.intp))
    resources, streams = _numbers(points.streams)
    kinds = points.kinds[matches.points]
    cells = _find_cells(matches, streams[kinds])
    made = _make(matches, cells, resources[kinds], points.values, sources)
    lost = _lost(matches, cells, made, made.rows * width + sources.columns[made.sources])
    won = ((made.fates == _STORED) & ~lost).nonzero()[0]
    rows = made.rows[won]
    first, second = matches.points[cells.last[made.first[won]]], matches.points[cells.last[made.second[won]]]
    begins = _begins(rows)
    recipe = Recipe(
        times=matches.row_points[rows[begins]],
        rows=np.cumsum(begins) - 1,
        columns=sources.columns[made.sources[won]],
        points=first,
        minus=second,
        less=made.first[won] != made.second[won],
        scales=sources.scales[made.sources[won]],
        width=width,
    )
    fates = _fates(matches, cells, made, lost, len(points))
    return Joined(recipe.make(points.times, made.values[won]), fates, recipe if len(won) == len(made.rows) else None)


def _match(points: Points, targets: int, tolerance: int) -> _Matches:
    found = [stream.identity.targets for stream in points.streams]
    flat = np.array([target for some in found for target in some], np.intp)
    counts = np.array([len(some) for some in found], np.intp)
    many = counts[points.kinds]
    matched = np.arange(len(points)).repeat(many)
    first = (counts.cumsum() - counts)[points.kinds] - (many.cumsum() - many)
    target = flat[first.repeat(many) + np.arange(len(matched))]

    times = points.times[matched]
    by_time = times.argsort(kind="stable")
    times = times[by_time]
    begins = _row_begins(times, tolerance)
    rows = np.zeros(len(times), np.intp)
    rows[begins[1:]] = 1
    cells = rows.cumsum() * targets + target[by_time]
    order = cells.argsort(kind="stable")
    return _Matches(matched[by_time[order]], cells[order], order, matched[by_time[begins]])


def _row_begins(times: NDArray[np.uint64], tolerance: int) -> _Ints:
    """The places of the times, which ascend, at which a row begins."""
    ends = times.searchsorted(times + np.uint64(tolerance), side="right").tolist()
    begins: list[int] = []
    place = 0
    while place < len(ends):
        begins.append(place)
        place = ends[place]
    return np.array(begins, np.intp)


def _find_cells(matches: _Matches, stream: _Ints) -> _Cells:
    ends = _ends(matches.cells)
    last, older = ends.nonzero()[0], (~ends).nonzero()[0]
    older_of = last.searchsorted(older)
    ambiguous = np.zeros(len(last), np.bool_)
    ambiguous[older_of[stream[older] != stream[last[older_of]]]] = True
    return _Cells(last, older, older_of, ambiguous)


def _make(
    matches: _Matches, cells: _Cells, resource: _Ints, values: NDArray[np.float64], sources: SourceTable
) -> _Made:
    cell = matches.cells[cells.last]
    first, second = _begins(cell >> 1).nonzero()[0], _ends(cell >> 1).nonzero()[0]
    row, target = np.divmod(cell[first], 2 * len(sources))
    source = target >> 1
    both = first != second
    resource = resource[cells.last]
    ambiguous = cells.ambiguous[first] | cells.ambiguous[second] | (resource[first] != resource[second])
    incomplete = (target & 1).astype(np.bool_) | (sources.minus[source] & ~both)
    value = values[matches.points[cells.last]]
    made = _combined(value[first], value[second], both, sources.scales[source])
    fates = np.where(np.isfinite(made), _STORED, _NOT_FINITE)
    fates[incomplete] = _INCOMPLETE
    fates[ambiguous] = _AMBIGUOUS
    return _Made(first, second, row, source, made, fates)


def _combined(values: Values, minus: Values, less: _Flags, scales: Values) -> Values:
    """Values, where there is `less` without what is taken away, in the unit of the series."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(less, values - minus, values) * scales


def _lost(matches: _Matches, cells: _Cells, made: _Made, places: _Ints) -> _Flags:
    """Which of the values give way to a later one of another rule at their place, the column of a row."""
    lost = np.zeros(len(places), np.bool_)
    good = (made.fates == _STORED).nonzero()[0]
    begins = _begins(places[good])
    if not begins.all():
        newest = np.maximum(matches.order[cells.last[made.first]], matches.order[cells.last[made.second]])[good]
        best = np.maximum.reduceat(newest, begins.nonzero()[0])
        lost[good] = newest != best[begins.cumsum() - 1]
    return lost


def _fates(matches: _Matches, cells: _Cells, made: _Made, lost: _Flags, points: int) -> _Ints:
    """What becomes of each point.

    A point may feed several sources. It is stored if one of them stores it; else it counts as superseded if one of its
    values gave way; else the last of the sources tells. So every fate has a rank, and the highest one counts.
    """
    size = _STORED + 1
    own = (made.sources + 1) * size
    above = (own.max() // size + 1) * size
    ranks = np.where(made.fates == _STORED, above + size + _STORED, own + made.fates)
    ranks[lost] = above + _SUPERSEDED
    fates = np.full(points, _OTHER_ATTRIBUTES, np.intp)
    for part in (made.first, made.second):
        np.maximum.at(fates, matches.points[cells.last[part]], ranks)
    if len(cells.older):
        ranks = own + np.minimum(made.fates, _SUPERSEDED)
        of = made.first.searchsorted(cells.older_of, side="right") - 1
        np.maximum.at(fates, matches.points[cells.older], ranks[of])
    return fates % size


def _numbers(streams: Sequence[Stream]) -> tuple[_Ints, _Ints]:
    """Numbers for the resources of streams, and for the streams: equal ones have the same."""
    resources: dict[bytes, int] = {}
    names: dict[tuple[bytes, bytes], int] = {}
    of_resource = [resources.setdefault(stream.resource, len(resources)) for stream in streams]
    of_name = [names.setdefault((stream.resource, stream.identity.attributes), len(names)) for stream in streams]
    return np.array(of_resource, np.intp), np.array(of_name, np.intp)


def _begins(numbers: _Ints) -> _Flags:
    """Where in ascending numbers the first of equal ones stands."""
    begins = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=begins[1:])
    return begins


def _ends(numbers: _Ints) -> _Flags:
    """Where in ascending numbers the last of equal ones stands."""
    ends = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=ends[:-1])
    return ends
