"""From matched points to rows of the store. Pure.

Senders give the points of one collection slightly different times. Points that lie within a tolerance of the earliest
of them make one row, at that earliest time; a repeated request makes the same rows again, so that storing it twice
changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from icosfl.bridge.decode import Point
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rules import Match, Source
from icosfl.schema import Rows

_Stream = tuple[frozenset[tuple[str, str]], frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Joined:
    """The rows, the indices of the points that stand in them, and for the other matched points why they do not."""

    rows: Rows
    kept: frozenset[int]
    left_out: Mapping[int, Reason]


@dataclass(frozen=True, slots=True)
class _Cell:
    """A value for one column, the indices of the points that it is made of, and its place in the order of time."""

    column: int
    value: float
    points: tuple[int, ...]
    order: tuple[int, int]


def join(points: Sequence[Point], matches: Iterable[Match], width: int, tolerance: int) -> Joined:
    """Join matched points to rows.

    Inside a row the last value of a stream wins, and of two rules that fill one column the later value. Two streams
    (points that differ in attributes or resource) of one source have no common value: both are left out.

    Args:
        points: The points of a request.
        matches: Which of them feed which sources; columns are less than `width`.
        width: How many columns a row has.
        tolerance: How far, in ns, a point may lie behind the first one of its row.
    """
    ordered = sorted(matches, key=lambda match: (points[match.point].time, match.point))
    times: list[int] = []
    values: list[list[float]] = []
    kept: set[int] = set()
    left_out: dict[int, Reason] = {}
    for group in _same_row(ordered, points, tolerance):
        cells = _cells(group, points, left_out)
        if cells:
            times.append(points[group[0].point].time)
            values.append([cells[column].value if column in cells else math.nan for column in range(width)])
            kept.update(index for cell in cells.values() for index in cell.points)
    rows = Rows(np.array(times, np.int64), np.array(values, np.float64).reshape(len(times), width))
    return Joined(rows, frozenset(kept), {index: why for index, why in left_out.items() if index not in kept})


def _same_row(ordered: Sequence[Match], points: Sequence[Point], tolerance: int) -> Iterator[list[Match]]:
    group: list[Match] = []
    for match in ordered:
        if group and points[match.point].time - points[group[0].point].time > tolerance:
            yield group
            group = []
        group.append(match)
    if group:
        yield group


def _cells(group: Sequence[Match], points: Sequence[Point], left_out: dict[int, Reason]) -> dict[int, _Cell]:
    """The cells of one row by column; adds to `left_out` the points that got into none."""
    made: list[_Cell] = []
    by_source = sorted(group, key=lambda match: (match.source.rule, match.source.column))
    for source, matches in groupby(by_source, key=lambda match: match.source):
        indices = [match.point for match in matches]
        cell = _cell(source, indices, points)
        if isinstance(cell, Reason):
            left_out.update(dict.fromkeys(indices, cell))
        else:
            left_out.update((index, Reason.SUPERSEDED) for index in indices if index not in cell.points)
            made.append(cell)
    cells: dict[int, _Cell] = {}
    for cell in sorted(made, key=lambda cell: cell.order):
        if cell.column in cells:
            left_out.update(dict.fromkeys(cells[cell.column].points, Reason.SUPERSEDED))
        cells[cell.column] = cell
    return cells


def _cell(source: Source, indices: Sequence[int], points: Sequence[Point]) -> _Cell | Reason:
    """The value that points of one row, in the order of time, give a source; or why they give none."""
    if _ambiguous(source, indices, points):
        return Reason.AMBIGUOUS
    last = {points[index].metric: index for index in indices}
    if any(metric not in last for metric in source.metrics):
        return Reason.INCOMPLETE
    value = points[last[source.metric]].value
    if source.minus:
        value -= points[last[source.minus]].value
    value *= source.scale
    if not math.isfinite(value):
        return Reason.NOT_FINITE
    newest = max(last.values(), key=indices.index)
    return _Cell(source.column, value, tuple(last.values()), (points[newest].time, newest))


def _ambiguous(source: Source, indices: Sequence[int], points: Sequence[Point]) -> bool:
    streams: dict[str, set[_Stream]] = {metric: set() for metric in source.metrics}
    for index in indices:
        point = points[index]
        streams[point.metric].add((frozenset(point.resource.items()), frozenset(point.attributes.items())))
    resources = {resource for found in streams.values() for resource, _ in found}
    return len(resources) > 1 or any(len(found) > 1 for found in streams.values())
