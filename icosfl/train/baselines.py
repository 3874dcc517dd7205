"""The forecasts that need no network, which the global model is measured against, and which step in where it loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from icosfl.errors import SchemaMismatch
from icosfl.process.windows import Windows
from icosfl.schema import Values
from icosfl.train.linear import Linear, fit_ar, fit_nlinear

PERSISTENCE = "persistence"
MOVING_AVERAGE = "moving_average"
SEASONAL_NAIVE = "seasonal_naive"
AR = "ar"
NLINEAR = "nlinear"
NAMES = (PERSISTENCE, MOVING_AVERAGE, SEASONAL_NAIVE, AR, NLINEAR)

# The name of the fleet's model among the predictors.
GLOBAL = "global"

# Newest values that the moving average and the autoregression look at, or the whole window where it is shorter.
MOVING_AVERAGE_STEPS = 6
AR_ORDER = 10

# Of the ridges, as shares of the features' variance: enough to keep few windows solvable.
AR_PENALTY = 1e-3
NLINEAR_PENALTY = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Baselines:
    """Baselines of one node, fitted on its training windows only.

    Args:
        ar: An autoregression around the training mean, directly for each horizon.
        nlinear: NLinear (Zeng et al. 2023), fitted in closed form.

    Raises:
        SchemaMismatch: the two are of different shapes.
    """

    ar: Linear
    nlinear: Linear

    def __post_init__(self) -> None:
        if self.ar.weights.shape != self.nlinear.weights.shape:
            raise SchemaMismatch(
                f"an autoregression of shape {self.ar.weights.shape} and NLinear of shape "
                f"{self.nlinear.weights.shape} do not fit each other"
            )

    @classmethod
    def fit(cls, train: Windows) -> Self:
        """Fit what is to be fitted, series by series. A series that has no training window has no AR and no NLinear."""
        return cls(fit_ar(train, AR_ORDER, AR_PENALTY), fit_nlinear(train, NLINEAR_PENALTY))

    def predict(self, inputs: Values, seasonal: Values) -> dict[str, Values]:
        """Forecasts [n, h, k] by the baselines' names, in real units.

        A series that is absent from a window (NaN) is absent from its forecasts. So is one from the AR and NLinear
        forecasts if these could not be fitted, and from the seasonal ones where nothing is known of a season before.

        Args:
            inputs: The windows, shape [n, window, k].
            seasonal: The values one season before each target, shape [n, h, k]: `Windows.seasonal`.

        Raises:
            SchemaMismatch: inputs or seasonal values are of another shape.
        """
        ar, nlinear = self.ar.predict(inputs), self.nlinear.predict(inputs)
        if seasonal.shape != ar.shape:
            raise SchemaMismatch(f"forecasts of shape {ar.shape} need seasonal values alike, not {seasonal.shape}")
        last = inputs[:, -1:, :]
        return {
            PERSISTENCE: np.repeat(last, self.ar.horizons, axis=1),
            MOVING_AVERAGE: np.repeat(_newest_mean(inputs), self.ar.horizons, axis=1),
            SEASONAL_NAIVE: np.where(np.isnan(last), np.nan, seasonal),
            AR: ar,
            NLINEAR: nlinear,
        }

    def to_dict(self) -> dict[str, Any]:
        """The fitted baselines as plain JSON."""
        return {AR: self.ar.to_dict(), NLINEAR: self.nlinear.to_dict()}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            SchemaMismatch: it is something else.
        """
        try:
            fields = dict(data)  # type: ignore[call-overload]
            return cls(Linear.from_dict(fields[AR]), Linear.from_dict(fields[NLINEAR]))
        except (TypeError, ValueError, KeyError) as error:
            raise SchemaMismatch("these are no baselines") from error


def _newest_mean(inputs: Values) -> Values:
    """Mean of the newest values [n, 1, k], taken as distances from the last: a constant's is the constant itself."""
    last = inputs[:, -1:, :]
    return np.asarray(last + (inputs[:, -MOVING_AVERAGE_STEPS:, :] - last).mean(axis=1, keepdims=True))
