from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from icosfl.config import ForecastConfig, environment, load, schema_of
from icosfl.errors import ConfigError
from icosfl.schema import Schema, Series

STORE = {
    "kind": "memory",
    "alias": "rows",
    "capacity_rows": 9,
    "deadline_seconds": 1.0,
    "metadata": {"host": "127.0.0.1", "port": 1},
    "dataset": "d",
    "username": "u",
    "password": "most secret",
}
NODE = {
    "host": "worker-1",
    "period_seconds": 1,
    "max_gap_seconds": 3,
    "stale_after_seconds": 30,
    "models_dir": "/m",
    "runs_dir": "/r",
    "store": STORE,
    "series": [{"name": "cpu_usage", "unit": "%"}],
}
FORECAST = {
    "listen": {"host": "127.0.0.1", "port": 8082},
    "refresh_seconds": 1.0,
    "evaluate_seconds": 60.0,
    "node": NODE,
    "log_level": "info",
}


def loaded(directory: Path, value: dict[str, Any]) -> ForecastConfig:
    path = directory / "forecast.toml"
    path.write_text(tomli_w.dumps(value), encoding="utf-8")
    return load(path, ForecastConfig)


def test_a_rendered_file_becomes_the_configuration(tmp_path: Path) -> None:
    config = loaded(tmp_path, FORECAST)

    assert str(config.listen) == "127.0.0.1:8082"
    assert config.node.models_dir == Path("/m")
    assert schema_of(config.node.series) == Schema((Series("cpu_usage", "%"),))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"log_level": "loud"}, "log_level"),
        ({"refresh_seconds": 0}, "refresh_seconds"),
        ({"refresh_seconds": float("inf")}, "refresh_seconds"),
        ({"listen": {"host": "127.0.0.1", "port": 65536}}, "listen.port"),
        ({"listen": {"host": "127.0.0.1"}}, "listen.port"),
        ({"node": {**NODE, "period_seconds": 0}}, "node.period_seconds"),
        ({"node": {**NODE, "stale_after_seconds": -1}}, "node.stale_after_seconds"),
        ({"node": {**NODE, "store": {**STORE, "kind": "redis"}}}, "node.store.kind"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_key_is_named_with_the_file_and_the_cure_but_no_secret(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, FORECAST | changes)

    assert f"forecast.toml: {key}: " in caught.value.message
    assert caught.value.cure
    assert "most secret" not in str(caught.value)


def test_a_missing_file_and_one_that_is_no_toml_are_told_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("= 1", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file .*site\.yml"):
        load(tmp_path / "missing.toml", ForecastConfig)
    with pytest.raises(ConfigError, match=r"broken\.toml: not TOML: "):
        load(tmp_path / "broken.toml", ForecastConfig)


def test_a_library_s_environment_is_as_before_when_the_block_ends_even_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICOSFL_TEST_A", "before")
    monkeypatch.delenv("ICOSFL_TEST_B", raising=False)
    seen = []

    def import_badly() -> None:
        with environment({"ICOSFL_TEST_A": "1", "ICOSFL_TEST_B": "2"}):
            seen.extend([os.environ["ICOSFL_TEST_A"], os.environ["ICOSFL_TEST_B"]])
            raise ImportError

    with pytest.raises(ImportError):
        import_badly()
    assert seen == ["1", "2"]
    assert os.environ["ICOSFL_TEST_A"] == "before"
    assert "ICOSFL_TEST_B" not in os.environ
