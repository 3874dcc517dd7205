from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pytest

from icosfl.fleet import health
from icosfl.fleet.health import wait_until_healthy
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import HealthCheck

HTTP = HealthCheck("http", "127.0.0.1", 8080, "/", "", 0.5)
PROCESS = HealthCheck("process", "", 0, "/", "", 0.5)


def saying(*statuses: Status) -> Callable[[], Status]:
    """Return what a process manager says one after the other, the last one for ever."""
    said = chain(statuses, repeat(statuses[-1]))
    return lambda: next(said)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[str]], None]:
    def give(reasons: Iterator[str]) -> None:
        monkeypatch.setattr(health, "probe", lambda check, timeout: next(reasons))

    return give


def test_wait_ends_when_the_service_answers(answers: Callable[[Iterator[str]], None]) -> None:
    answers(iter(["refused", "refused", ""]))

    assert wait_until_healthy(HTTP, saying(Status("demo", "STARTING", 7))).healthy


def test_wait_ends_with_the_last_reason_when_time_is_over(answers: Callable[[Iterator[str]], None]) -> None:
    answers(chain(["refused"], repeat("answers 503")))

    verdict = wait_until_healthy(HTTP, saying(Status("demo", "RUNNING", 7)))

    assert verdict.reason == "it does not work after 0.5 s: answers 503"
    assert not verdict.ended


@pytest.mark.parametrize("state", ["BACKOFF", "EXITED", "FATAL", "STOPPED"])
def test_wait_ends_at_once_when_the_process_ends(state: str, answers: Callable[[Iterator[str]], None]) -> None:
    answers(iter(["refused"]))  # a second question would be an error

    verdict = wait_until_healthy(
        HTTP, saying(*[Status("demo", "STARTING", 7)], Status("demo", state, reason="too quickly"))
    )

    assert verdict.ended
    assert verdict.reason == "too quickly"


def test_a_process_that_was_replaced_has_ended(answers: Callable[[Iterator[str]], None]) -> None:
    answers(iter(["refused"]))

    assert wait_until_healthy(HTTP, saying(Status("demo", "STARTING", 7), Status("demo", "STARTING", 8))).ended


def test_an_answer_while_the_process_ended_is_another_one_s(answers: Callable[[Iterator[str]], None]) -> None:
    answers(iter([""]))

    assert wait_until_healthy(HTTP, saying(Status("demo", "STARTING", 7), Status("demo", "BACKOFF"))).ended


def test_a_mere_process_is_healthy_once_it_has_stayed_up() -> None:
    assert wait_until_healthy(PROCESS, saying(Status("demo", "STARTING", 7), Status("demo", "RUNNING", 7))).healthy
    assert wait_until_healthy(PROCESS, saying(Status("demo", "STARTING", 7))).reason.endswith("it is STARTING")
