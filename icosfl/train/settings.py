"""The settings of a run: checked values from Flower's flat run configuration (`[tool.flwr.app.config]`)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from icosfl.errors import ConfigError
from icosfl.train.shape import NETWORKS

NEXT = "next"

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
CURE = "correct the value in [tool.flwr.app.config], icosfl_training or `flwr run -c`"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a federated run learns.

    Args:
        num_server_rounds: Rounds of a run, at least 1.
        min_nodes: Nodes without whose replies a round fails, at least 1.
        local_epochs: Passes over a node's windows in a round, at least 1.
        learning_rate: Of Adam, above 0 and at most 1.
        batch_size: Windows in a step, at least 1.
        network: Which one forecasts what the linear parts leave: lstm or gru.
        hidden_size: Its width, at least 1.
        num_layers: Its layers, at least 1.
        series: Names of the series that the model sees and forecasts.
        window_seconds: How far back the model sees.
        horizon_seconds: How far ahead it forecasts, in the order asked for; None means the next row.
        season_seconds: After how long series may repeat, for the seasonal naive forecast.
        train_fraction: Share of a node's rows, the oldest, that is trained on; between 0 and 1.
        min_windows: Training windows without which a node sits out, at least 1.
        round_timeout_seconds: How long a round waits for replies.
        seed: Of the initial weights, and with the round's number of the order of windows.
    """

    num_server_rounds: int
    min_nodes: int
    local_epochs: int
    learning_rate: float
    batch_size: int
    network: str
    hidden_size: int
    num_layers: int
    series: tuple[str, ...]
    window_seconds: float
    horizon_seconds: tuple[float | None, ...]
    season_seconds: float
    train_fraction: float
    min_windows: int
    round_timeout_seconds: float
    seed: int

    @classmethod
    def from_run_config(cls, config: Mapping[str, object]) -> Self:
        """Check a run configuration; keys that are not ours are left alone.

        Raises:
            ConfigError: a key is missing or its value is not usable; the message names the key.
        """
        return cls(
            num_server_rounds=whole(config, "num-server-rounds", 1),
            min_nodes=whole(config, "min-nodes", 1),
            local_epochs=whole(config, "local-epochs", 1),
            learning_rate=number(config, "learning-rate", above=0, most=1),
            batch_size=whole(config, "batch-size", 1),
            network=one_of(config, "network", NETWORKS),
            hidden_size=whole(config, "hidden-size", 1),
            num_layers=whole(config, "num-layers", 1),
            series=_names(config, "series"),
            window_seconds=duration(config, "window"),
            horizon_seconds=_horizons(config, "horizons"),
            season_seconds=duration(config, "season"),
            train_fraction=number(config, "train-fraction", above=0, below=1),
            min_windows=whole(config, "min-windows", 1),
            round_timeout_seconds=number(config, "round-timeout-seconds", above=0),
            seed=whole(config, "seed", 0),
        )

    def window_steps(self, period_seconds: float) -> int:
        """The window in steps of the sampling period, rounded.

        Raises:
            ConfigError: the window is shorter than two steps.
        """
        return _two_or_more("window", self.window_seconds, period_seconds)

    def horizon_steps(self, period_seconds: float) -> tuple[int, ...]:
        """The horizons in steps of the sampling period, rounded, ascending; equal ones are one.

        Raises:
            ConfigError: a horizon is nearer than half a step.
        """
        return tuple(sorted({self._steps(seconds, period_seconds) for seconds in self.horizon_seconds}))

    def season_steps(self, period_seconds: float) -> int:
        """The season in steps of the sampling period, rounded.

        Raises:
            ConfigError: the season is shorter than two steps.
        """
        return _two_or_more("season", self.season_seconds, period_seconds)

    @staticmethod
    def _steps(seconds: float | None, period_seconds: float) -> int:
        if seconds is None:
            return 1
        steps = round(seconds / period_seconds)
        if steps < 1:
            raise ConfigError(
                f"horizons: {seconds:g} s is nearer than the next row at a sampling period of {period_seconds:g} s; "
                f'"{NEXT}" means the next row',
                cure=CURE,
            )
        return steps


def _two_or_more(key: str, seconds: float, period_seconds: float) -> int:
    """A duration in steps of the sampling period, rounded.

    Raises:
        ConfigError: it is shorter than two steps.
    """
    steps = round(seconds / period_seconds)
    if steps < 2:
        raise ConfigError(
            f"{key}: {seconds:g} s is less than two rows at a sampling period of {period_seconds:g} s", cure=CURE
        )
    return steps


def parse_duration(text: str) -> float | None:
    """A duration such as `90s`, `2m` or `1.5h` in seconds; None when the text is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return None
    seconds = float(match[1]) * _SECONDS[match[2]]
    return seconds if seconds > 0 else None


def _value(config: Mapping[str, object], key: str) -> object:
    if key not in config:
        raise ConfigError(f"{key}: missing in the run configuration", cure=CURE)
    return config[key]


def _wrong(key: str, expected: str, value: object) -> ConfigError:
    return ConfigError(f"{key}: must be {expected}, not {value!r}", cure=CURE)


def whole(config: Mapping[str, object], key: str, least: int) -> int:
    """The whole number at `key`.

    Raises:
        ConfigError: it is missing, none, or less than `least`.
    """
    value = _value(config, key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _wrong(key, f"a whole number of at least {least}", value)
    return value


def number(  # noqa: PLR0913 (bounds)
    config: Mapping[str, object],
    key: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """The number at `key`, within all bounds that are given.

    Raises:
        ConfigError: it is missing, none, not finite, or out of bounds.
    """
    value = _value(config, key)
    bounds = {"above": above, "of at least": least, "below": below, "of at most": most}
    told = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(key, f"a number {told}", value)
    low = (above is None or value > above) and (least is None or value >= least)
    high = (below is None or value < below) and (most is None or value <= most)
    if not (low and high):
        raise _wrong(key, f"a number {told}", value)
    return float(value)


def truth(config: Mapping[str, object], key: str) -> bool:
    """Whether `key` is true.

    Raises:
        ConfigError: it is missing, or neither true nor false.
    """
    value = _value(config, key)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def one_of(config: Mapping[str, object], key: str, names: Collection[str]) -> str:
    """The text at `key`.

    Raises:
        ConfigError: it is missing or none of the names.
    """
    value = text(config, key)
    if value not in names:
        raise _wrong(key, f"one of {', '.join(names)}", value)
    return value


def text(config: Mapping[str, object], key: str) -> str:
    """The text at `key`.

    Raises:
        ConfigError: it is missing or no text.
    """
    value = _value(config, key)
    if not isinstance(value, str):
        raise _wrong(key, "a text", value)
    return value


def duration(config: Mapping[str, object], key: str) -> float:
    """The duration at `key` in seconds.

    Raises:
        ConfigError: it is missing or none.
    """
    return _duration(key, text(config, key))


def _list(config: Mapping[str, object], key: str, expected: str) -> tuple[str, ...]:
    listed = text(config, key)
    items = tuple(item.strip() for item in listed.split(","))
    if not all(items) or len(set(items)) != len(items):
        raise _wrong(key, expected, listed)
    return items


def _names(config: Mapping[str, object], key: str) -> tuple[str, ...]:
    return _list(config, key, "different names of series with commas between")


def _horizons(config: Mapping[str, object], key: str) -> tuple[float | None, ...]:
    items = _list(config, key, f'different durations with commas between, or "{NEXT}"')
    return tuple(None if item == NEXT else _duration(key, item) for item in items)


def _duration(key: str, told: str) -> float:
    seconds = parse_duration(told)
    if seconds is None:
        raise _wrong(key, "a positive number with s, m or h", told)
    return seconds
