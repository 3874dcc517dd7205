"""process: rows → arrays. Rows come from the store; regular grids and windows go to training and forecasting.

Everything here is a pure function on arrays and imports neither torch, Flower nor dataClay.
"""

from icosfl.process.clean import Grid, bridge_gaps, to_grid
from icosfl.process.windows import Windows

__all__ = ["Grid", "Windows", "bridge_gaps", "to_grid"]
