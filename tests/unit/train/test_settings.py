from __future__ import annotations

import pytest

from icosfl.errors import ConfigError
from icosfl.train.settings import TrainSettings, parse_duration


def test_the_project_s_own_run_configuration_is_sound(run_config: dict[str, object]) -> None:
    settings = TrainSettings.from_run_config(run_config)

    assert settings.window_seconds == parse_duration(str(run_config["window"]))
    assert ",".join(settings.series) == run_config["series"]
    assert settings.num_server_rounds == run_config["num-server-rounds"]
    assert settings.learning_rate == run_config["learning-rate"]
    assert settings.network == run_config["network"]
    assert settings.season_seconds == parse_duration(str(run_config["season"]))


def test_durations_become_steps_of_the_sampling_period(run_config: dict[str, object]) -> None:
    settings = TrainSettings.from_run_config(
        run_config | {"window": "2m", "horizons": "next, 1m,5m , 0.5h", "season": "1.5h"}
    )

    assert settings.window_steps(3.0) == 40
    assert settings.horizon_steps(3.0) == (1, 20, 100, 600)
    assert settings.season_steps(3.0) == 1800
    assert settings.window_steps(1.0) == 120
    assert settings.horizon_steps(1.0) == (1, 60, 300, 1800)


def test_horizons_are_ascending_and_those_that_fall_together_are_one(run_config: dict[str, object]) -> None:
    settings = TrainSettings.from_run_config(run_config | {"window": "5m", "horizons": "5m,next,60s,1.01m"})

    assert settings.horizon_steps(60.0) == (1, 5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("2m", 120), ("1.5h", 5400), (" 3 s ", 3), ("0s", None), ("m", None), ("-1s", None), ("5", None)],
)
def test_a_duration_is_a_number_and_its_unit(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num-server-rounds", 0),
        ("num-server-rounds", 2.5),
        ("min-nodes", "2"),
        ("local-epochs", True),
        ("learning-rate", 0),
        ("learning-rate", 1.5),
        ("learning-rate", float("nan")),
        ("learning-rate", "fast"),
        ("batch-size", -1),
        ("hidden-size", 0),
        ("num-layers", 0),
        ("network", "transformer"),
        ("network", "LSTM"),
        ("network", 4),
        ("season", "daily"),
        ("season", "0s"),
        ("season", 3600),
        ("series", ""),
        ("series", "cpu_usage,,power"),
        ("series", "power,power"),
        ("series", 3),
        ("window", "2 minutes"),
        ("window", 120),
        ("horizons", ""),
        ("horizons", "next,soon"),
        ("horizons", "1m,1m"),
        ("train-fraction", 1),
        ("train-fraction", 0.0),
        ("min-windows", 0),
        ("round-timeout-seconds", float("inf")),
        ("seed", -1),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(
    run_config: dict[str, object], key: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: must be"):
        TrainSettings.from_run_config(run_config | {key: value})


def test_each_key_is_needed(run_config: dict[str, object]) -> None:
    for key in (
        "num-server-rounds", "min-nodes", "local-epochs", "learning-rate", "batch-size", "network", "hidden-size",
        "num-layers", "series", "window", "horizons", "season", "train-fraction", "min-windows",
        "round-timeout-seconds", "seed",
    ):  # fmt: skip
        rest = {name: value for name, value in run_config.items() if name != key}
        with pytest.raises(ConfigError, match=f"^{key}: missing"):
            TrainSettings.from_run_config(rest)


def test_keys_of_others_are_left_alone(run_config: dict[str, object]) -> None:
    assert TrainSettings.from_run_config(run_config | {"my-strategy": "x"}) == TrainSettings.from_run_config(run_config)


def test_a_window_of_one_row_is_refused(run_config: dict[str, object]) -> None:
    settings = TrainSettings.from_run_config(run_config | {"window": "1m"})

    with pytest.raises(ConfigError, match="window: 60 s is less than two rows"):
        settings.window_steps(60.0)


def test_a_season_of_one_row_is_refused(run_config: dict[str, object]) -> None:
    settings = TrainSettings.from_run_config(run_config | {"season": "1m"})

    with pytest.raises(ConfigError, match="season: 60 s is less than two rows"):
        settings.season_steps(60.0)


def test_a_horizon_before_the_next_row_is_refused(run_config: dict[str, object]) -> None:
    settings = TrainSettings.from_run_config(run_config | {"horizons": "1s"})

    with pytest.raises(ConfigError, match="horizons: 1 s is nearer than the next row"):
        settings.horizon_steps(3.0)
