"""The forecasts that need no model, which every model is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from icosfl.errors import SchemaMismatch
from icosfl.process.windows import Windows
from icosfl.schema import Values

PERSISTENCE = "persistence"
MOVING_AVERAGE = "moving_average"
AR = "ar"
NAMES = (PERSISTENCE, MOVING_AVERAGE, AR)

# Newest values that the moving average and the autoregression look at, or the whole window where it is shorter.
MOVING_AVERAGE_STEPS = 6
AR_ORDER = 10

# Of the ridge, on features of unit variance: enough to keep a constant series and few windows solvable.
AR_RIDGE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Baselines:
    """Baselines of one node, fitted on its training windows only.

    Args:
        centre: Mean of each series in the training inputs, shape [k].
        spread: Standard deviation of each feature of the autoregression, shape [k, p].
        weights: Of these features for the change from the last value, shape [k, p, h].
        horizons: In steps, as the windows'.
    """

    centre: Values
    spread: Values
    weights: Values
    horizons: tuple[int, ...]

    @classmethod
    def fit(cls, train: Windows) -> Baselines:
        """Fit the autoregression by ridge least squares, directly for each horizon, series by series.

        A series that has no training window, or never changes, is forecast as persistence.
        """
        order = min(AR_ORDER, train.window)
        shape = (train.width, order, len(train.horizons))
        centre, spread, weights = np.zeros(train.width), np.ones(shape[:2]), np.zeros(shape)
        for series in range(train.width):
            whole = ~np.isnan(train.inputs[:, -1, series])
            inputs, targets = train.inputs[whole][:, :, series], train.targets[whole][:, :, series]
            if len(inputs) == 0:
                continue
            centre[series] = inputs.mean()
            features = _features(inputs, order, centre[series])
            deviation = features.std(axis=0)
            spread[series] = np.where(deviation > 0, deviation, 1.0)
            weights[series] = _ridge(features / spread[series], targets - inputs[:, -1:])
        return cls(centre, spread, weights, train.horizons)

    def predict(self, inputs: Values) -> dict[str, Values]:
        """Forecasts by the baselines' names: inputs [n, window, k] to values [n, h, k], in real units.

        A series that is absent from a window (NaN) is absent from its forecasts.

        Raises:
            SchemaMismatch: the inputs are of another number of series, or shorter than the autoregression's order.
        """
        if inputs.ndim != 3 or inputs.shape[2] != len(self.centre) or inputs.shape[1] < self.weights.shape[1]:
            raise SchemaMismatch(f"these baselines cannot take inputs of shape {inputs.shape}")
        return {
            PERSISTENCE: self._repeat(inputs[:, -1, :]),
            MOVING_AVERAGE: self._repeat(inputs[:, -MOVING_AVERAGE_STEPS:, :].mean(axis=1)),
            AR: self._autoregress(inputs),
        }

    def to_dict(self) -> dict[str, Any]:
        """The fitted baselines as plain JSON."""
        return {
            "centre": self.centre.tolist(),
            "spread": self.spread.tolist(),
            "weights": self.weights.tolist(),
            "horizons": list(self.horizons),
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            SchemaMismatch: it is something else.
        """
        try:
            fields = dict(data)  # type: ignore[call-overload]
            centre, spread, weights = (np.array(fields[name], float) for name in ("centre", "spread", "weights"))
            horizons = tuple(int(steps) for steps in fields["horizons"])
        except (TypeError, ValueError, KeyError) as error:
            raise SchemaMismatch("these are no baselines") from error
        if weights.ndim != 3 or weights.shape != (len(centre), *spread.shape[1:], len(horizons)):
            raise SchemaMismatch("the baselines' numbers do not fit each other")
        return cls(centre, spread, weights, horizons)

    def _repeat(self, values: Values) -> Values:
        return np.repeat(values[:, None, :], len(self.horizons), axis=1)

    def _autoregress(self, inputs: Values) -> Values:
        forecasts = self._repeat(inputs[:, -1, :])
        order = self.weights.shape[1]
        for series in range(inputs.shape[2]):
            features = _features(inputs[:, :, series], order, self.centre[series]) / self.spread[series]
            forecasts[:, :, series] += features @ self.weights[series]
        return forecasts


def _features(inputs: Values, order: int, centre: float) -> Values:
    """Distance of the last value from the centre, then of the values before it from the last, shape [n, order]."""
    last = inputs[:, -1:]
    return np.concatenate([last - centre, inputs[:, -order:-1] - last], axis=1)


def _ridge(features: Values, changes: Values) -> Values:
    """Weights [p, h] of features [n, p] for changes [n, h], each horizon on the rows that have its target."""
    weights = np.zeros((features.shape[1], changes.shape[1]))
    for horizon in range(changes.shape[1]):
        told = ~np.isnan(changes[:, horizon])
        known = features[told]
        gram = known.T @ known + AR_RIDGE * max(len(known), 1) * np.eye(features.shape[1])
        weights[:, horizon] = np.linalg.solve(gram, known.T @ changes[told, horizon])
    return weights
