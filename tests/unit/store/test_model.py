from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest

from icosfl.errors import SchemaMismatch
from icosfl.store.model import Parcel, TimeSeriesData


def make() -> TimeSeriesData:
    return TimeSeriesData("timeseries", ("cpu_usage", "power"), ("%", "W"), 3)


def parcel(*times: int) -> Parcel:
    return Parcel(np.array(times, np.int64), np.array([[time, time] for time in times], np.float64))


def test_the_class_keeps_the_name_under_which_dataclay_stores_its_objects() -> None:
    assert make()._dc_meta.class_name == "icosfl.store.model.TimeSeriesData"


def test_the_state_holds_plain_values_only_so_that_other_code_may_move() -> None:
    pickled = pickle.dumps(make().__getstate__())

    assert b"icosfl" not in pickled


def test_an_object_that_comes_back_from_its_state_goes_on_in_another_epoch() -> None:
    async def scenario() -> None:
        before = make()
        old = await before.append(parcel(10, 20))
        after = make()
        after.__setstate__(pickle.loads(pickle.dumps(before.__getstate__())))

        times, values, position = await after.window()

        assert times.tolist() == [10, 20]
        assert values.tolist() == [[10.0, 10.0], [20.0, 20.0]]
        assert position[1] == old[1]
        assert position[0] != old[0]

    asyncio.run(scenario())


def test_waiters_are_woken_by_rows_and_forgotten_when_they_go() -> None:
    async def scenario() -> None:
        stored = make()
        position = await stored.append(parcel(10))
        waiting = [asyncio.create_task(stored.wait(position, 30.0)) for _ in range(3)]
        gone = asyncio.create_task(stored.wait(position, 30.0))
        while len(stored._waiters) < 4:
            await asyncio.sleep(0)
        gone.cancel()

        new = await stored.append(parcel(20))

        assert await asyncio.gather(*waiting) == [new] * 3
        assert await stored.wait(new, 0.01) is None
        assert not stored._waiters

    asyncio.run(scenario())


def test_attaching_takes_on_the_capacity_and_refuses_other_series() -> None:
    async def scenario() -> None:
        stored = make()
        await stored.append(parcel(10, 20, 30))

        await stored.attach("timeseries", ("cpu_usage", "power"), ("%", "W"), 2)

        assert (await stored.window())[0].tolist() == [20, 30]
        with pytest.raises(SchemaMismatch, match=r"keeps the series cpu_usage \[%\], power \[W\], not power \[W\]"):
            await stored.attach("timeseries", ("power",), ("W",), 2)

    asyncio.run(scenario())


def test_a_parcel_is_cheap_to_print() -> None:
    assert repr(parcel(*range(1000))) == "Parcel"


def test_importing_the_class_leaves_logging_alone_and_needs_neither_a_host_name_nor_secrets() -> None:
    program = """
import logging, socket
def unknown(name):
    raise socket.gaierror(-2, "Name or service not known")
socket.gethostbyname = unknown
import icosfl.store.model, icosfl.store.services
assert socket.gethostbyname is unknown
assert not logging.getLogger().handlers
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_parts_of_the_test_process_are_as_they_were() -> None:
    assert socket.gethostbyname.__name__ == "gethostbyname"
    assert logging.getLogger("dataclay").level == logging.WARNING
