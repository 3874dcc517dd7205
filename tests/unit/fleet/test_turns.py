from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from icosfl.fleet.turns import one_at_a_time


def test_logical_hosts_of_one_machine_wait_for_one_another_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    served: list[str] = []

    def serve(name: str, done: Event) -> None:
        with one_at_a_time("image", {"inventory_hostname": name, "ansible_host": "edge-1"}):
            served.append(name)
        done.set()

    with ThreadPoolExecutor() as pool:
        waits = Event()
        with one_at_a_time("image", {"inventory_hostname": "first", "ansible_host": "edge-1"}):
            pool.submit(serve, "second", waits)
            for known, what, place in (
                ({"inventory_hostname": "edge-2"}, "image", ""),
                ({"inventory_hostname": "edge-1"}, "release", ""),
                ({"inventory_hostname": "edge-1"}, "image", "/srv/icosfl"),
            ):
                with one_at_a_time(what, known, place):
                    served.append(what)
            assert not waits.is_set()
        assert waits.wait(20)

    assert served == ["image", "release", "image", "second"]
