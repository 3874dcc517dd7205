"""Scaling by moments that nodes can compute apart and merge, so that no raw value leaves a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icosfl.errors import SchemaMismatch
from icosfl.schema import Values

# A spread smaller than this share of the mean is rounding, not a signal.
RELATIVE_NOISE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Scaler:
    """(value - mean) / scale, series by series.

    A series of which no value was ever seen has a NaN mean and scale: its values become NaN, that is "no value".

    Args:
        mean: In the series' units, shape [k].
        scale: In the series' units, positive, shape [k].

    Raises:
        SchemaMismatch: the shapes differ, a scale is not positive, or a number is infinite.
    """

    mean: Values
    scale: Values

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.scale.shape:
            raise SchemaMismatch(f"a scaler needs mean [k] and scale [k], not {self.mean.shape} and {self.scale.shape}")
        known = ~np.isnan(self.mean)
        if bool(np.any(known != ~np.isnan(self.scale))):
            raise SchemaMismatch("a scaler's mean and scale must be missing for the same series")
        if not bool(np.all(np.isfinite(self.mean[known]) & np.isfinite(self.scale[known]) & (self.scale[known] > 0))):
            raise SchemaMismatch("a scaler needs finite means and positive, finite scales")

    def __len__(self) -> int:
        return len(self.mean)

    def transform(self, values: Values) -> Values:
        """Scale values of shape [..., k]; NaN stays NaN.

        Raises:
            SchemaMismatch: the last axis is not the scaler's width.
        """
        with np.errstate(over="ignore"):
            return (self._fitting(values) - self.mean) / self.scale

    def inverse(self, values: Values) -> Values:
        """Bring scaled values of shape [..., k] back to real units.

        Raises:
            SchemaMismatch: the last axis is not the scaler's width.
        """
        return self._fitting(values) * self.scale + self.mean

    def to_dict(self) -> dict[str, list[float | None]]:
        """The scaler as plain JSON; a number that is missing is null."""
        return {"mean": _plain(self.mean), "scale": _plain(self.scale)}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            SchemaMismatch: it is something else.
        """
        fields = _fields(data, ("mean", "scale"), "scaler")
        return cls(fields["mean"], fields["scale"])

    def _fitting(self, values: Values) -> Values:
        if values.ndim == 0 or values.shape[-1] != len(self):
            raise SchemaMismatch(f"a scaler of {len(self)} series cannot take values of shape {values.shape}")
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """How many values were seen of each series, their mean, and the sum of squared distances from it.

    Args:
        count: Shape [k].
        mean: In the series' units, shape [k]; 0 where the count is 0.
        m2: In the units squared, shape [k].

    Raises:
        SchemaMismatch: the shapes differ, or a number is negative (count, m2) or not finite.
    """

    count: Values
    mean: Values
    m2: Values

    def __post_init__(self) -> None:
        if self.count.ndim != 1 or not self.count.shape == self.mean.shape == self.m2.shape:
            raise SchemaMismatch(
                f"moments need count, mean and m2 [k], not {self.count.shape}, {self.mean.shape} and {self.m2.shape}"
            )
        if not all(bool(np.all(np.isfinite(part))) for part in (self.count, self.mean, self.m2)):
            raise SchemaMismatch("moments must be finite numbers")
        if bool(np.any(self.count < 0)) or bool(np.any(self.m2 < 0)):
            raise SchemaMismatch("moments need counts and m2 of at least 0")

    @classmethod
    def of(cls, values: Values) -> Self:
        """The moments of values of shape [n, k]; what is not finite is no value.

        Raises:
            SchemaMismatch: values are so large that their squares are not finite.
        """
        present = np.isfinite(values)
        count = present.sum(axis=0).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(present, values, 0.0).sum(axis=0) / np.maximum(count, 1)
            m2 = (np.where(present, values - mean, 0.0) ** 2).sum(axis=0)
        return cls(count, mean, m2)

    def merge(self, other: Self) -> Self:
        """The moments of both sets of values together (Chan, Golub and LeVeque 1979).

        Raises:
            SchemaMismatch: they are of another number of series.
        """
        if self.count.shape != other.count.shape:
            raise SchemaMismatch(f"cannot merge moments of {len(self.count)} and {len(other.count)} series")
        total = self.count + other.count
        share = other.count / np.maximum(total, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = other.mean - self.mean
            mean = self.mean + distance * share
            m2 = self.m2 + other.m2 + distance**2 * self.count * share
        return type(self)(total, mean, m2)

    def scaler(self) -> Scaler:
        """The scaler to mean 0 and standard deviation 1.

        A series that never changed gets scale 1; one without any value stays unknown to the scaler.
        """
        deviation = np.sqrt(self.m2 / np.maximum(self.count, 1))
        constant = deviation <= RELATIVE_NOISE * np.abs(self.mean)
        scale = np.where(constant, 1.0, deviation)
        seen = self.count > 0
        return Scaler(np.where(seen, self.mean, np.nan), np.where(seen, scale, np.nan))

    def to_dict(self) -> dict[str, list[float | None]]:
        """The moments as plain JSON."""
        return {"count": _plain(self.count), "mean": _plain(self.mean), "m2": _plain(self.m2)}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            SchemaMismatch: it is something else.
        """
        fields = _fields(data, ("count", "mean", "m2"), "moments")
        return cls(fields["count"], fields["mean"], fields["m2"])


def _plain(values: Values) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _fields(data: object, names: tuple[str, ...], what: str) -> dict[str, Values]:
    if not isinstance(data, dict) or set(data) != set(names):
        raise SchemaMismatch(f"{what} need exactly the fields {', '.join(names)}")
    return {name: _vector(data[name], f"{what}: {name}") for name in names}


def _vector(data: ArrayLike | None, what: str) -> NDArray[np.float64]:
    try:
        vector = np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SchemaMismatch(f"{what} must be a list of numbers") from error
    if vector.ndim != 1:
        raise SchemaMismatch(f"{what} must be a list of numbers, not of shape {vector.shape}")
    return vector
