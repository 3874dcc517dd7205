"""What Ctrl-C does while Ansible runs below us."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import psutil

GRACE_SECONDS = 3.0


@dataclass(slots=True)
class Interrupts:
    """Hands the first Ctrl-C to Ansible, which then ends in good order; kills it on the second one or after a while."""

    pid: int | None = None
    count: int = 0
    first: float = 0.0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        self.count += 1
        if self.count == 1:
            self.first = time.monotonic()
            if self.pid is not None:
                os.kill(self.pid, signal.SIGINT)

    def kill(self) -> bool:
        """Whether the playbook must be killed now; its workers, which are no longer in its process group, are."""
        if not self.count:
            return False
        patient = self.count == 1 and time.monotonic() - self.first < GRACE_SECONDS
        if self.pid is not None and patient:
            return False
        for worker in _descendants(self.pid):
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        return True

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for as long as this lasts, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _descendants(pid: int | None) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True) if pid is not None else []
    except psutil.NoSuchProcess:
        return []
