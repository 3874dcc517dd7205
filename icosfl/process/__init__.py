"""process: rows → arrays. Rows come from the store; regular grids, windows and scalers go to training and forecasting.

Everything here is a pure function on arrays and imports neither torch, Flower nor dataClay.
"""

from icosfl.process.clean import Grid, bridge_gaps, to_grid
from icosfl.process.scale import Moments, Scaler
from icosfl.process.windows import Windows

__all__ = ["Grid", "Moments", "Scaler", "Windows", "bridge_gaps", "to_grid"]
