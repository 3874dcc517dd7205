from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from icosfl.config import Endpoint, StoreConfig
from icosfl.errors import ConfigError
from icosfl.store import SeriesStore, open_store
from support.store_contract import CAPACITY, SCHEMA, StoreContract, rows


def config(**changes: object) -> StoreConfig:
    values: dict[str, object] = {
        "kind": "memory",
        "alias": "timeseries",
        "capacity_rows": CAPACITY,
        "deadline_seconds": 5.0,
        "metadata": Endpoint("127.0.0.1", 1),
        "dataset": "admin",
        "username": "admin",
        "password": "admin",
    }
    return StoreConfig(**(values | changes))  # type: ignore[arg-type]


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[SeriesStore]:
        with open_store(config(), SCHEMA) as store:
            yield store


def test_two_memory_stores_share_nothing() -> None:
    one, other = open_store(config(), SCHEMA), open_store(config(), SCHEMA)

    one.append(rows(10))

    assert other.info().rows == 0
    assert one.info().position.epoch != other.info().position.epoch


@pytest.mark.parametrize(
    ("changes", "named"), [({"capacity_rows": 0}, "capacity_rows"), ({"deadline_seconds": 0.0}, "deadline_seconds")]
)
def test_a_value_out_of_its_range_is_named(changes, named) -> None:
    with pytest.raises(ConfigError, match=named):
        open_store(config(**changes), SCHEMA)


def test_a_memory_store_is_opened_without_importing_dataclay() -> None:
    program = "import icosfl.store, icosfl.store.base, icosfl.store.memory, sys; sys.exit('dataclay' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
