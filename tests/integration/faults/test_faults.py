"""Every point that was acknowledged is in the window after any crash, once, in order; and all is well again.

A sender streams numbered points through a real bridge into a real dataClay all the while, and repeats each until it is
acknowledged. The table at the end of the test run says what became of them.
"""

from __future__ import annotations

import itertools
import random
import resource
import signal
from pathlib import Path

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from icosfl.bridge.spool_format import payload_of, record_of, seed_of
from icosfl.store import checkpoint
from support.bridge_service import SCHEMA, wait_for_health
from support.faults import FaultyNode, table_of
from support.spools import files_in

KILLED = ("bridge", "backend", "metadata", "redis")
MINUTE = 60 * 10**9


@pytest.mark.parametrize(
    "names", [*itertools.combinations(KILLED, 1), *itertools.combinations(KILLED, 2)], ids=" and ".join
)
def test_what_is_killed_comes_back_and_loses_nothing(node: FaultyNode, names: tuple[str, ...]) -> None:
    with node.fault(f"{' and '.join(names)} killed"):
        node.crash(*names)


def test_a_dozen_kills_one_after_the_other_lose_nothing(node: FaultyNode) -> None:
    with node.fault("a dozen kills in a row"):
        for name in random.Random(5).choices(KILLED, k=12):
            node.services[name].crash()
            node.stream.wait_for_more(5)


def test_points_are_taken_while_the_store_is_down_even_if_the_bridge_is_killed_then(node: FaultyNode) -> None:
    with node.fault("bridge killed while the store is down"):
        node.stack.kill("backend")
        try:
            node.stream.wait_for_more(30)
            node.crash("bridge")
            node.stream.wait_for_more(30)
            wait_for_health(node.bridge_config.listen, HealthCheckResponse.SERVING)
        finally:
            node.stack.start_again("backend")


def test_on_a_full_disk_senders_are_told_to_come_again_and_nothing_is_lost(node: FaultyNode) -> None:
    with node.fault("disk of the spool full"):
        limits = resource.prlimit(node.bridge.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.bridge.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        try:
            node.stream.wait_for_told_to_wait(3)
            wait_for_health(node.bridge_config.listen, HealthCheckResponse.NOT_SERVING)
            assert "File too large" in str(node.readiness()["reasons"])
        finally:
            resource.prlimit(node.bridge.pid, resource.RLIMIT_FSIZE, limits)


def test_on_a_full_disk_a_killed_bridge_still_has_what_it_acknowledged(node: FaultyNode) -> None:
    with node.fault("disk full, store down, bridge killed"):
        node.stack.kill("backend")
        try:
            node.stream.wait_for_more(30)
            _, hard = resource.prlimit(node.bridge.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(node.bridge.pid, resource.RLIMIT_FSIZE, (1, hard))
            node.stream.wait_for_told_to_wait(3)
            node.crash("bridge")
            node.stream.wait_for_more(30)
        finally:
            node.stack.start_again("backend")


def test_points_of_a_clock_that_steps_back_are_stored_once_by_their_time(node: FaultyNode) -> None:
    with node.fault("clock stepping back a minute"):
        node.stream.clock_steps_by = -MINUTE + 500
        try:
            node.stream.wait_for_more(50)
            node.crash("backend")
        finally:
            node.stream.clock_steps_by = 0


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_half_written_record_at_the_spools_end_is_cut_off(node: FaultyNode, kept: int) -> None:
    with node.fault(f"half a record in the spool ({kept} bytes)"):
        write_to_dead_spool(node, record_of(10**9, payload_of(node.store.window(1).rows), seed_of(SCHEMA))[:kept])

    assert "half written: cut off" in node.bridge.log.read_text()


def test_garbage_at_the_spools_end_is_set_aside(node: FaultyNode) -> None:
    with node.fault("garbage in the spool"):
        newest = write_to_dead_spool(node, b"garbage" * 100)

    assert f"{newest} is damaged" in node.bridge.log.read_text()
    assert newest.with_name(f"{newest.name}.damaged").exists()


def write_to_dead_spool(node: FaultyNode, data: bytes) -> Path:
    """Kill the bridge, write behind its newest record, and start it again."""
    node.bridge.end(signal.SIGKILL)
    try:
        newest = files_in(node.bridge_config.spool.directory)[-1]
        with newest.open("ab") as file:
            file.write(data)
    finally:
        node.bridge.start()
    return newest


def test_after_a_corrupt_checkpoint_the_spool_brings_what_the_one_before_it_lacks(node: FaultyNode) -> None:
    with node.fault("backend killed, newest checkpoint corrupt"):
        node.stack.kill("backend")
        try:
            (newest,) = (path for path in node.stack.storage_dir.iterdir() if checkpoint.previous_of(path).exists())
            data = bytearray(newest.read_bytes())
            data[len(data) // 2] ^= 0xFF
            newest.write_bytes(data)
            node.stream.wait_for_more(20)
        finally:
            node.stack.start_again("backend")

    log = node.services["backend"].log.read_text()
    assert f"{newest} is damaged and was set aside" in log
    assert f"{newest} comes from {checkpoint.previous_of(newest).name}" in log


def test_at_the_end_every_acknowledged_point_is_in_the_window_once_and_in_order(node: FaultyNode) -> None:
    with node.fault("none"):
        node.stream.wait_for_more(20)
    node.stream.stop()
    node.wait_for_points()

    accounts = node.accounts()
    assert sum(account.lost + account.duplicated for account in accounts) == 0, table_of(accounts)
    assert all(account.acknowledged >= 20 for account in accounts), table_of(accounts)
    rows = node.store.window().rows
    assert set(node.stream.acknowledged) <= set(rows.times.tolist())
    assert len(rows) - len(node.stream.acknowledged) <= 1  # the point that had no answer yet when the stream ended
    assert (rows.times[1:] > rows.times[:-1]).all()
