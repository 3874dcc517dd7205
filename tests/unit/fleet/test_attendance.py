from __future__ import annotations

import pytest

from icosfl.errors import NotReady, Unavailable
from icosfl.fleet import attendance as module
from icosfl.fleet.attendance import Attendance, attendance, wait_for_nodes
from icosfl.fleet.flower import Node

KEYS = {"worker-1": "1", "worker-2": "2", "worker-3": "3"}


def nodes(*statuses: str) -> list[Node]:
    return [Node(number * 10, status, str(number)) for number, status in enumerate(statuses, 1)]


def there(online: int, expected: int) -> Attendance:
    return attendance(nodes(*["online"] * online, *["offline"] * (expected - online)), KEYS, expected)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0)


def unheard(line: str) -> None:
    raise AssertionError(f"somebody was told: {line}")


def test_who_is_missing_is_named_with_the_reason() -> None:
    found = attendance(nodes("online", "offline", "registered"), KEYS, 3)

    assert (found.online, found.missing) == (1, ("worker-2 (offline)", "worker-3 (never came)"))
    assert found.line == "1 of 3 SuperNodes are online; missing: worker-2 (offline), worker-3 (never came)"
    assert found.names == {10: "worker-1", 20: "worker-2", 30: "worker-3"}


def test_a_host_whose_key_the_superlink_does_not_know_is_missing_too() -> None:
    assert attendance(nodes("online", "online"), KEYS, 3).missing == ("worker-3 (not registered)",)


def test_without_names_nodes_have_their_numbers() -> None:
    found = attendance(nodes("online", "offline"), {}, 2)

    assert found.line == "1 of 2 SuperNodes are online; missing: node 20 (offline)"
    assert found.names == {}


def test_nodes_that_nobody_registered_are_counted() -> None:
    found = attendance(nodes("online", "online", "online"), KEYS, 9)

    assert found.line == "3 of 9 SuperNodes are online; missing: 6 more that nobody registered"


def test_nobody_is_missing_where_more_are_online_than_expected() -> None:
    assert attendance(nodes("online", "online", "offline"), KEYS, 2).line == "2 of 2 SuperNodes are online"


def test_waiting_for_nodes_returns_who_is_there_and_tells_each_change_once() -> None:
    looks, told = iter([there(1, 3), there(1, 3), there(2, 3), there(3, 3)]), []

    found = wait_for_nodes(lambda: next(looks), 2, 30, told.append)

    assert found.online == 3
    assert told == [
        "waiting: 1 of 3 SuperNodes are online; missing: worker-2 (offline), worker-3 (offline)",
        "waiting: 2 of 3 SuperNodes are online; missing: worker-3 (offline)",
    ]


def test_missing_nodes_end_the_wait_by_name() -> None:
    with pytest.raises(NotReady) as caught:
        wait_for_nodes(lambda: there(2, 3), 3, 0, unheard)

    assert caught.value.message == ("2 of 3 SuperNodes are online, and a run needs 3; missing: worker-3 (offline)")


def test_a_missing_node_holds_no_run_up_that_does_not_need_it() -> None:
    assert wait_for_nodes(lambda: there(2, 3), 2, 0, unheard).online == 2


def test_a_superlink_that_is_away_for_a_moment_is_asked_again() -> None:
    asked = []

    def away_once() -> Attendance:
        asked.append(True)
        if len(asked) == 1:
            raise Unavailable("away")
        return there(2, 2)

    assert wait_for_nodes(away_once, 2, 30, unheard).online == 2


def test_a_superlink_that_stays_away_ends_the_wait_for_nodes() -> None:
    def away() -> Attendance:
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        wait_for_nodes(away, 2, 0, unheard)
