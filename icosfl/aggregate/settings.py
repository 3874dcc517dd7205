"""What the controller needs of a run's configuration beside what the nodes need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from icosfl.errors import ConfigError
from icosfl.train.settings import TrainSettings

QUERY_TIMEOUT = "query-timeout-seconds"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run goes.

    Args:
        train: How it learns, as the nodes read it too.
        query_timeout_seconds: How long nodes have to say whether they take part; those that do not are left out.
    """

    train: TrainSettings
    query_timeout_seconds: float

    @classmethod
    def from_run_config(cls, config: Mapping[str, object]) -> Self:
        """Check a run configuration.

        Raises:
            ConfigError: a key is missing or its value is not usable; the message names the key.
        """
        value = config.get(QUERY_TIMEOUT)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ConfigError(
                f"{QUERY_TIMEOUT}: must be a positive number, not {value!r}",
                cure="correct the value in [tool.flwr.app.config], icosfl_training or `flwr run -c`",
            )
        return cls(TrainSettings.from_run_config(config), float(value))
