"""What the controller needs of a run's configuration beside what the nodes need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from icosfl.errors import ConfigError
from icosfl.train.settings import TrainSettings

QUERY_TIMEOUT = "query-timeout-seconds"
KEEP_MODELS = "keep-models"
# A forecast service may be about to read the model before the newest.
LEAST_MODELS = 2

_CURE = "correct the value in [tool.flwr.app.config], icosfl_training or `flwr run -c`"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run goes.

    Args:
        train: How it learns, as the nodes read it too.
        query_timeout_seconds: How long nodes have to say whether they take part; those that do not are left out.
        keep_models: How many models, and runs on the controller, each host keeps; at least 2.
    """

    train: TrainSettings
    query_timeout_seconds: float
    keep_models: int

    @classmethod
    def from_run_config(cls, config: Mapping[str, object]) -> Self:
        """Check a run configuration.

        Raises:
            ConfigError: a key is missing or its value is not usable; the message names the key.
        """
        timeout, keep = config.get(QUERY_TIMEOUT), config.get(KEEP_MODELS)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise ConfigError(f"{QUERY_TIMEOUT}: must be a positive number, not {timeout!r}", cure=_CURE)
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < LEAST_MODELS:
            raise ConfigError(
                f"{KEEP_MODELS}: must be a whole number of at least {LEAST_MODELS}, not {keep!r}", cure=_CURE
            )
        return cls(TrainSettings.from_run_config(config), float(timeout), keep)
