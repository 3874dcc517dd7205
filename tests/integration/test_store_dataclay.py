from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty

from icosfl.config import Endpoint
from icosfl.errors import SchemaMismatch, StoreUnavailable
from icosfl.schema import Rows, Schema, Series
from icosfl.store import SeriesStore, open_store
from icosfl.store.quiet import quiet_dataclay
from support.dataclay_stack import DataclayStack, free_ports, through_proxy
from support.store_contract import CAPACITY, SCHEMA, StoreContract, rows

with quiet_dataclay():
    from dataclay.proto.backend.backend_pb2_grpc import BackendServiceStub

numbers = itertools.count()


@pytest.fixture
def alias() -> str:
    """A name that no other test uses."""
    return f"store-{next(numbers)}"


@pytest.fixture
def opened(dataclay_stack: DataclayStack, alias: str) -> Iterator[Callable[..., SeriesStore]]:
    """Open the test's object; closed at its end."""
    stores: list[SeriesStore] = []

    def open_(capacity: int = CAPACITY, schema: Schema = SCHEMA) -> SeriesStore:
        stores.append(open_store(dataclay_stack.store_config(alias, capacity), schema))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


class TestDataclayStore(StoreContract):
    @pytest.fixture
    def store(self, opened) -> SeriesStore:
        return opened()


def test_another_process_sees_the_same_rows(opened) -> None:
    writer, reader = opened(), opened()

    position = writer.append(rows(10, 20))

    assert reader.window().rows.times.tolist() == [10, 20]
    assert reader.info().position == position


def test_stores_that_are_opened_at_once_end_with_one_object(opened) -> None:
    stores = [opened() for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: pair[1].append(rows(pair[0])), enumerate(stores[:5])))

    assert [store.window().rows.times.tolist() for store in stores] == [[0, 1, 2, 3, 4]] * 8


def test_a_store_of_other_series_is_refused(opened) -> None:
    opened().append(rows(10))

    with pytest.raises(SchemaMismatch, match=r"power \[W\]") as caught:
        opened(schema=Schema((Series("cpu_usage", "%"), Series("power", "kW")))).info()

    assert "alias" in caught.value.cure


def test_who_only_reads_changes_nothing_and_makes_nothing(opened, dataclay_stack, alias) -> None:
    hasty = dataclay_stack.store_config(alias, capacity=2, deadline_seconds=0.5)
    with (
        open_store(hasty, SCHEMA, read_only=True) as early,
        pytest.raises(StoreUnavailable, match="does not exist yet") as caught,
    ):
        early.info()
    assert "the bridge" in caught.value.cure

    opened(capacity=5).append(rows(1, 2, 3))

    config = dataclay_stack.store_config(alias, capacity=2)
    with open_store(config, SCHEMA, read_only=True) as reader:
        assert reader.window().rows.times.tolist() == [1, 2, 3]
        assert reader.info().capacity == 5
        with pytest.raises(StoreUnavailable, match="opened to be read"):
            reader.append(rows(4))


def test_another_capacity_is_taken_on_and_the_newest_rows_stay(opened) -> None:
    opened().append(rows(1, 2, 3, 4, 5))

    assert opened(capacity=2).window().rows.times.tolist() == [4, 5]
    assert opened(capacity=7).info().capacity == 7


def test_a_whole_day_of_rows_comes_in_one_call(opened) -> None:
    store, count = opened(capacity=28800), 28800
    sent = Rows(np.arange(count, dtype=np.int64), np.random.default_rng(1).normal(size=(count, 2)))

    store.append(sent)

    np.testing.assert_array_equal(store.window().rows.values, sent.values)


def test_no_row_is_lost_when_dataclay_unloads_the_object_under_writers(dataclay_stack, opened) -> None:
    store, count = opened(capacity=1000), 150

    def unload() -> None:
        with grpc.insecure_channel(str(dataclay_stack.endpoints["backend"])) as channel:
            for _ in range(10):
                BackendServiceStub(channel).FlushAll(Empty(), timeout=20)

    with ThreadPoolExecutor(5) as pool:
        unloading = pool.submit(unload)
        list(pool.map(lambda time: store.append(rows(time)), range(count)))
        unloading.result()

    assert store.window().rows.times.tolist() == list(range(count))


def test_any_thread_may_call(opened) -> None:
    store, found = opened(), []

    thread = threading.Thread(target=lambda: found.append(store.append(rows(10))))
    thread.start()
    thread.join(20)

    assert found == [store.info().position]


def test_the_object_can_be_used_through_the_proxy_with_dataclays_own_client(dataclay_stack, opened, alias) -> None:
    opened().append(rows(10, 20))

    through_proxy(
        dataclay_stack,
        f"""
        store = TimeSeriesData.get_by_alias("{alias}")
        await store.append(Parcel(np.array([30], np.int64), np.array([[30.0, 30.0]])))
        times, values, position = await store.window(2)
        assert times.tolist() == [20, 30] and values.shape == (2, 2), times
        """,
    )

    assert opened().window().rows.times.tolist() == [10, 20, 30]


def test_many_may_wait_through_the_proxy_without_keeping_a_writer_waiting(dataclay_stack, opened, alias) -> None:
    opened().append(rows(10))

    through_proxy(
        dataclay_stack,
        f"""
        store = TimeSeriesData.get_by_alias("{alias}")
        _, _, before = await store.window()
        waiting = [asyncio.create_task(store.wait(before, 30.0)) for _ in range(40)]
        after = await store.append(Parcel(np.array([20], np.int64), np.array([[20.0, 20.0]])))
        assert await asyncio.gather(*waiting) == [after] * 40
        """,
    )


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "silent"])
def test_a_store_that_is_not_there_is_unavailable_within_its_deadline(dataclay_stack, listening) -> None:
    (port,) = free_ports(1)
    with socket.socket() as silent:
        if listening:
            silent.bind(("127.0.0.1", port))
            silent.listen()
        config = dataclay_stack.store_config("nowhere", deadline_seconds=0.5)
        config = type(config)(**(vars(config) | {"metadata": Endpoint("127.0.0.1", port)}))
        with open_store(config, SCHEMA) as store:
            for call in (store.info, store.window, lambda: store.append(rows(1))):
                with pytest.raises(StoreUnavailable, match="nowhere") as caught:
                    call()
                assert "icosfl status" in caught.value.cure
