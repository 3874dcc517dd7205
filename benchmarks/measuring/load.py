"""Senders: processes that each wait for the answer to a request before they send the next one."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

import grpc
import numpy as np

from measuring.bodies import Kind

EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
START_SECONDS = 60
_ANSWER_SECONDS = 60
_WARM_UP = 5
_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
_PAUSE_SECONDS = 0.05

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Sent:
    """What one sender saw: requests acknowledged and sent back, answers that told of rejected points, seconds each."""

    acknowledged: int
    refused: int
    complaints: int
    latencies: tuple[float, ...]


@dataclass(frozen=True)
class Load:
    """What all senders saw together.

    `requests` were acknowledged while the clock ran for `seconds`, `before` in the warming up.
    """

    requests: int
    before: int
    refused: int
    complaints: int
    seconds: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Senders:
    """So many senders, each with one request in flight, that send for so many seconds from these cores."""

    count: int
    seconds: float
    cores: set[int]

    def send(self, kind: Kind, address: str, began: Callable[[], None]) -> Load:
        """Send such requests; `began` is called when all are warm and the clock starts."""
        next_row = _spawn.Value("q", 0)
        pipes = [_spawn.Pipe() for _ in range(self.count)]
        senders = [
            _spawn.Process(target=_run, args=(self, address, _Rows(kind, next_row), theirs), daemon=True)
            for _, theirs in pipes
        ]
        with _running(senders):
            for ours, _ in pipes:
                _receive(ours, START_SECONDS)
            began()
            begun = time.monotonic()
            for ours, _ in pipes:
                ours.send(None)
            found: list[Sent] = [_receive(ours, self.seconds + 2 * _ANSWER_SECONDS) for ours, _ in pipes]
            passed = time.monotonic() - begun
        return _together(found, passed)


def _together(found: list[Sent], seconds: float) -> Load:
    latencies = np.concatenate([each.latencies for each in found])
    return Load(
        requests=sum(each.acknowledged for each in found),
        before=len(found) * _WARM_UP,
        refused=sum(each.refused for each in found),
        complaints=sum(each.complaints for each in found),
        seconds=seconds,
        p50=float(np.percentile(latencies, 50)),
        p99=float(np.percentile(latencies, 99)),
    )


@contextmanager
def _running(senders: list[multiprocessing.process.BaseProcess]) -> Iterator[None]:
    for sender in senders:
        sender.start()
    try:
        yield
        for sender in senders:
            sender.join()
    finally:
        for sender in senders:
            sender.kill()


def _receive(pipe: Connection, seconds: float) -> Sent:
    if not pipe.poll(seconds):
        raise SystemExit("a sender says nothing: what it printed says why")
    found: Sent = pipe.recv()
    return found


def _run(senders: Senders, address: str, rows: _Rows, pipe: Connection) -> None:
    os.sched_setaffinity(0, senders.cores)
    with grpc.insecure_channel(address) as channel:
        export = channel.unary_unary(EXPORT)  # without serialisers: bytes in, bytes out
        sender = _Sender(export, rows)
        for _ in range(_WARM_UP):
            sender.send_one()
        pipe.send(Sent(sender.acknowledged, 0, 0, ()))
        pipe.recv()
        sender.forget()
        end = time.monotonic() + senders.seconds
        while time.monotonic() < end:
            sender.send_one()
        pipe.send(Sent(sender.acknowledged, sender.refused, sender.complaints, tuple(sender.latencies)))


@dataclass(frozen=True)
class _Rows:
    """Requests that all senders draw from: none sends rows that another one sends."""

    kind: Kind
    next_row: Synchronized[int]

    def body(self) -> bytes:
        with self.next_row.get_lock():
            row = self.next_row.value
            self.next_row.value += self.kind.rows
        return self.kind.body(row)


class _Sender:
    def __init__(self, export: grpc.UnaryUnaryMultiCallable[bytes, bytes], rows: _Rows) -> None:
        self._export, self._rows = export, rows
        self.forget()

    def forget(self) -> None:
        self.acknowledged = self.refused = self.complaints = 0
        self.latencies: list[float] = []

    def send_one(self) -> None:
        """Send the next rows until they are acknowledged."""
        body = self._rows.body()
        while True:
            begun = time.perf_counter()
            try:
                answer = self._export(body, timeout=_ANSWER_SECONDS)
            except grpc.RpcError as error:
                if error.code() not in _AGAIN:
                    raise
                self.refused += 1
                time.sleep(_PAUSE_SECONDS)
            else:
                self.latencies.append(time.perf_counter() - begun)
                self.acknowledged += 1
                self.complaints += bool(answer)  # an answer without rejected points is empty
                return
