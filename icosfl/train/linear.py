"""Linear forecasts in closed form: a node's own part of the forecaster, and the linear baselines. Needs no torch.

All of them are affine maps of a window, fitted by ridge least squares (Hoerl and Kennard 1970), directly for each
horizon, series by series. They are fitted from sums over the windows, so that a Raspberry Pi tries many in a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch
from icosfl.process.windows import Windows
from icosfl.schema import Values

MEAN = "mean"
LAST = "last"
LEVEL = "level"

# The candidates of a blend: what a forecast shrinks to, how many of the newest values it looks at, and how much it
# shrinks, as a share of the features' variance.
ANCHORS = (MEAN, LAST, LEVEL)
LAGS = (10, 20, 120)
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)

# A candidate whose error is 2 % above the best one's counts 0.37 as much, one at 10 % hardly any more. Of n independent
# errors, likelihood would weigh candidates by error^-n: where windows are few, or overlap up to a far horizon, less.
SHARPNESS = 50.0

# Of the map that nodes average.
COMMON_LAGS = 20
COMMON_PENALTY = 0.1

# The newest share of the training windows, on which the candidates are compared.
CHECK_SHARE = 0.25

# In units of the series' spread: an error that is less cannot be told from rounding.
LEAST_ERROR = 1e-6

# The square of a smaller number is none.
SMALLEST_SPREAD = 1e-150

# With fewer windows on either side nothing is compared: all candidates count the same.
FEWEST_CHECKED = 8


@dataclass(frozen=True, eq=False)
class Linear:
    """Forecasts of all series at all horizons as affine maps of a window, in real units.

    Args:
        weights: Of each step of the window, shape [k, window, h]; NaN for a series that could not be fitted.
        bias: In the series' units, shape [k, h].
        noise: Root mean squared error on the windows that it was fitted to, in the series' units, shape [k, h].

    Raises:
        SchemaMismatch: the shapes do not fit each other.
    """

    weights: Values
    bias: Values
    noise: Values

    def __post_init__(self) -> None:
        wanted = (self.weights.shape[0], self.weights.shape[-1]) if self.weights.ndim == 3 else None
        if wanted is None or not self.bias.shape == self.noise.shape == wanted:
            raise SchemaMismatch(
                f"weights, bias and noise of shapes {self.weights.shape}, {self.bias.shape} and {self.noise.shape} "
                "do not fit each other"
            )

    @property
    def width(self) -> int:
        """How many series it forecasts."""
        return int(self.weights.shape[0])

    @property
    def window(self) -> int:
        """How many steps it looks at."""
        return int(self.weights.shape[1])

    @property
    def horizons(self) -> int:
        """How many horizons it forecasts."""
        return int(self.weights.shape[2])

    @cached_property
    def fitted(self) -> NDArray[np.bool_]:
        """Which series could be fitted, shape [k]."""
        return np.asarray(np.isfinite(self.weights).all(axis=(1, 2)) & np.isfinite(self.bias).all(axis=1), np.bool_)

    def predict(self, inputs: Values) -> Values:
        """Forecasts of windows [n, window, k], shape [n, h, k]; NaN for a series that is absent or was not fitted.

        Raises:
            SchemaMismatch: the windows are of another shape.
        """
        if inputs.ndim != 3 or inputs.shape[1:] != (self.window, self.width):
            raise SchemaMismatch(
                f"linear forecasts of {self.width} series and {self.window} steps cannot take windows of shape "
                f"{inputs.shape}"
            )
        forecasts = inputs.transpose(2, 0, 1) @ self.weights + self.bias[:, None, :]
        return np.asarray(forecasts.transpose(1, 2, 0), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The maps as plain JSON; a number that is missing is null."""
        return {name: _plain(getattr(self, name)) for name in ("weights", "bias", "noise")}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            SchemaMismatch: it is something else.
        """
        try:
            fields = dict(data)  # type: ignore[call-overload]
            weights, bias, noise = (np.asarray(fields[name], float) for name in ("weights", "bias", "noise"))
        except (TypeError, ValueError, KeyError) as error:
            raise SchemaMismatch("these are no linear forecasts") from error
        return cls(weights, bias, noise)


def fit_blend(train: Windows) -> Linear:
    """The average of many linear forecasts, by how well each did on the newest quarter of the training windows.

    The candidates (`ANCHORS`, `LAGS`, `PENALTIES`) are fitted to the older windows, compared on the newest quarter,
    fitted anew to all, and averaged with weights error^-s: s is the number of windows compared for each step of the
    horizon, at most `SHARPNESS`. The average of affine maps is one again.

    Args:
        train: Windows in real units, in the order of time. A series without a target is not fitted (NaN).
    """
    return _fit(train, _blend)


def fit_ar(train: Windows, order: int, penalty: float) -> Linear:
    """An autoregression of this order around the series' mean over the training windows."""

    def fit(sums: _Sums) -> Values:
        everything = sums.all
        features = _features(sums.window, LEVEL, order, everything.mean, whole=False)
        return _solve(everything, features, (penalty,))[0]

    return _fit(train, fit)


def fit_nlinear(train: Windows, penalty: float) -> Linear:
    """NLinear (Zeng et al. 2023): a linear map of the whole window less its last value, fitted in closed form."""

    def fit(sums: _Sums) -> Values:
        features = _features(sums.window, LAST, sums.window, 0.0)
        constant = np.eye(sums.window + 1)[-1:]
        return _solve(sums.all, _Features(features.base, np.concatenate([features.matrix, constant])), (penalty,))[0]

    return _fit(train, fit)


def fit_common(train: Windows) -> Linear:
    """A linear map of the window less its mean: it has no unit, so that those of unlike nodes may be averaged.

    A series without a target is not fitted (NaN).
    """

    def fit(sums: _Sums) -> Values:
        return _solve(sums.all, _features(sums.window, MEAN, COMMON_LAGS, 0.0), (COMMON_PENALTY,))[0]

    return _fit(train, fit)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Sums over some windows of one series, each window with a 1 at its end: of it, of its products, of the target."""

    count: int
    gram: Values  # [window + 1, window + 1]
    cross: Values  # [window + 1]
    square: float

    @property
    def mean(self) -> float:
        """Of all values in the windows."""
        return float(self.gram[-1, :-1].mean()) / max(self.count, 1)

    def error(self, weights: Values) -> float:
        """Mean squared error of weights [window + 1]."""
        total = self.square - 2 * weights @ self.cross + weights @ self.gram @ weights
        return max(float(total), 0.0) / max(self.count, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """The sums of one series at one horizon: of all windows, and of the older and newer ones that are compared."""

    window: int
    horizon: int
    all: _Part
    older: _Part
    newer: _Part


@dataclass(frozen=True, slots=True, eq=False)
class _Features:
    """What a candidate makes of a window with a 1 at its end: a base forecast, and features that correct it."""

    base: Values  # [window + 1]
    matrix: Values  # [p, window + 1]


def _fit(train: Windows, fit: Callable[[_Sums], Values]) -> Linear:
    """Fit each series at each horizon, in units of its own spread around its mean, and bring it back to real ones."""
    window, width, horizons = train.window, train.width, len(train.horizons)
    weights = np.full((width, window, horizons), np.nan)
    bias, noise = np.full((2, width, horizons), np.nan)
    for series in range(width):
        whole = ~np.isnan(train.inputs[:, -1, series])
        if not bool(whole.any()):
            continue
        inputs, targets = train.inputs[:, :, series][whole], train.targets[:, :, series][whole]
        times = train.last_times[whole]
        centre, spread = _measure(inputs)
        scaled = np.ones((len(inputs), window + 1))
        np.subtract(inputs, centre, out=scaled[:, :-1])
        scaled[:, :-1] /= spread
        scaled_targets = (targets - centre) / spread
        for indices in _alike(targets):
            told = ~np.isnan(targets[:, indices[0]])
            if not bool(told.any()):
                continue
            rows = scaled if bool(told.all()) else scaled[told]
            steps = [train.horizons[index] for index in indices]
            parts = _sums(rows, scaled_targets[told][:, indices], times[told] // train.period_ns, steps)
            for index, sums in zip(indices, parts, strict=True):
                solution = fit(sums)
                weights[series, :, index] = solution[:-1]
                bias[series, index] = centre * (1 - solution[:-1].sum()) + spread * solution[-1]
                noise[series, index] = np.sqrt(sums.all.error(solution)) * spread
    return Linear(weights, bias, noise)


def _measure(inputs: Values) -> tuple[float, float]:
    """Mean and spread of a series; of one that never moves exactly its value and 1: rounding is no spread."""
    if inputs.min() == inputs.max():
        return float(inputs[0, 0]), 1.0
    centre = float(inputs.mean())
    spread = float(np.sqrt(((inputs - centre) ** 2).mean()))
    return centre, spread if spread > SMALLEST_SPREAD else 1.0


def _alike(targets: Values) -> list[list[int]]:
    """Horizons whose targets [n, h] are there for the same windows."""
    groups: dict[bytes, list[int]] = {}
    for index in range(targets.shape[1]):
        groups.setdefault(np.isnan(targets[:, index]).tobytes(), []).append(index)
    return list(groups.values())


def _sums(windows: Values, targets: Values, times: NDArray[np.int64], horizons: Sequence[int]) -> Iterator[_Sums]:
    """Sums over windows [n, window + 1] for the targets [n, h] of each horizon; times [n] and horizons in steps.

    The older windows' targets lie before the newer ones' forecasts are made. Windows are multiplied once for all
    horizons, in blocks between the rows where some horizon's older ones end.
    """
    count = len(windows)
    start = round(count * (1 - CHECK_SHARE))
    stops = [
        int(np.searchsorted(times + steps, times[start], side="right")) if start < count else 0 for steps in horizons
    ]
    cuts = sorted({0, *stops, start, count})
    blocks = {first: windows[first:last].T @ windows[first:last] for first, last in pairwise(cuts)}

    def part(first: int, last: int, told: Values) -> _Part:
        rows, ours = windows[first:last], told[first:last]
        gram = np.zeros((windows.shape[1], windows.shape[1]))
        for block in (block for cut, block in blocks.items() if first <= cut < last):
            gram += block
        return _Part(len(rows), gram, rows.T @ ours, float(ours @ ours))

    for told, stop, steps in zip(targets.T, stops, horizons, strict=True):
        yield _Sums(windows.shape[1] - 1, steps, part(0, count, told), part(0, stop, told), part(start, count, told))


def _blend(sums: _Sums) -> Values:
    """The average of all candidates, by their errors on the newer windows."""
    everything, older, newer = sums.all, sums.older, sums.newer
    checked = min(older.count, newer.count) >= FEWEST_CHECKED
    solutions: list[Values] = []
    errors: list[float] = []
    for anchor, lags in _kinds(sums.window):
        solutions += _solve(everything, _features(sums.window, anchor, lags, everything.mean), PENALTIES)
        if checked:
            before = _solve(older, _features(sums.window, anchor, lags, older.mean), PENALTIES)
            errors += [np.sqrt(newer.error(solution)) for solution in before]
    errors = [max(error, LEAST_ERROR) for error in errors] if checked else [1.0] * len(solutions)
    sharpness = min(SHARPNESS, newer.count / sums.horizon)
    share = (np.asarray(errors) / min(errors)) ** -sharpness
    return np.asarray(np.average(solutions, axis=0, weights=share), np.float64)


def _kinds(window: int) -> Iterator[tuple[str, int]]:
    return product(ANCHORS, sorted({min(lags, window) for lags in LAGS}))


def _features(window: int, anchor: str, lags: int, level: float, *, whole: bool = True) -> _Features:
    """Features of the newest `lags` steps, and if `whole` of the window's mean where they are only a part of it."""
    lags = min(lags, window)
    steps = np.eye(window + 1)
    mean = np.append(np.full(window, 1 / window), 0.0)
    last = steps[window - 1]
    newest = steps[window - lags : window]
    if anchor == MEAN:
        return _Features(mean, newest - mean)
    rows = [newest[:-1] - last]
    if whole and lags < window:
        rows.append((mean - last)[None])
    if anchor == LEVEL:
        rows.append((last - level * steps[window])[None])
    return _Features(last, np.concatenate(rows))


def _solve(part: _Part, features: _Features, penalties: tuple[float, ...]) -> list[Values]:
    """The ridge solutions [window + 1] of a part for each penalty, all from one decomposition.

    The penalty of each feature is a share of its variance, so that large and small ones shrink alike.
    """
    matrix = features.matrix
    gram = matrix @ part.gram @ matrix.T
    size = np.sqrt(np.maximum(np.diag(gram), 0.0) / max(part.count, 1))
    usable = size > 1e-9
    inverse = np.where(usable, 1 / np.where(usable, size, 1.0), 0.0)
    values, vectors = np.linalg.eigh(gram * np.outer(inverse, inverse))
    wanted = vectors.T @ (inverse * (matrix @ (part.cross - part.gram @ features.base)))
    solutions = []
    for penalty in penalties:
        shrunk = vectors @ (wanted / (np.maximum(values, 0.0) + penalty * max(part.count, 1)))
        solutions.append(features.base + (inverse * shrunk) @ matrix)
    return solutions


def _plain(values: Values) -> Any:
    data = values.astype(object)
    data[np.isnan(values)] = None
    return data.tolist()
