"""What a sender may send, by a clock that the tests set; and who a sender is."""

from __future__ import annotations

import pytest

from icosfl.bridge.limits import SenderBook
from icosfl.bridge.senders import FirstTimes, Senders, address_of, sender_of
from icosfl.config import SenderLimits

LIMITS = SenderLimits(requests_per_second=2, points_per_second=100, burst_seconds=5, senders=3)


@pytest.fixture
def book() -> SenderBook:
    return SenderBook(LIMITS)


def admitted(book: SenderBook, sender: str, now: float, at_most: int = 100) -> int:
    """How many requests the sender may send at this moment."""
    return next((count for count in range(at_most) if book.admit(sender, now)), at_most)


def test_a_sender_that_was_quiet_may_send_a_burst_and_then_at_the_rate(book) -> None:
    assert admitted(book, "a", 0.0) == 10
    assert admitted(book, "a", 1.0) == 2
    assert admitted(book, "a", 1.25) == 0
    assert admitted(book, "a", 1.5) == 1
    assert admitted(book, "a", 1000.0) == 10


def test_a_sender_is_told_when_it_may_send_again_and_then_it_may(book) -> None:
    admitted(book, "a", 0.0)

    assert book.admit("a", 0.125) == pytest.approx(0.375)
    assert book.admit("a", 0.5) == 0.0


def test_a_refused_request_costs_nothing(book) -> None:
    admitted(book, "a", 0.0)
    for _ in range(100):
        assert book.admit("a", 0.25)

    assert admitted(book, "a", 0.5) == 1


def test_points_beyond_the_burst_are_made_up_for_before_the_next_request(book) -> None:
    assert book.admit("a", 0.0) == 0.0
    book.charge("a", 1500, 0.0)

    assert book.admit("a", 0.0) == pytest.approx(10.01)
    assert book.admit("a", 10.0) == pytest.approx(0.01)
    assert book.admit("a", 10.02) == 0.0


def test_senders_do_not_use_up_what_others_may_send(book) -> None:
    assert admitted(book, "a", 0.0) == 10
    book.charge("b", 5000, 0.0)

    assert admitted(book, "c", 0.0) == 10


def test_the_sender_that_was_heard_longest_ago_is_forgotten_for_a_new_one(book) -> None:
    for sender in ("a", "b", "c"):
        assert admitted(book, sender, 0.0) == 10
    book.admit("a", 0.0)

    book.admit("d", 0.0)

    assert len(book) == 3
    assert admitted(book, "a", 0.0) == 0
    assert admitted(book, "b", 0.0) == 10


def test_a_time_before_the_last_one_gives_nothing_and_takes_nothing(book) -> None:
    admitted(book, "a", 10.0)

    assert admitted(book, "a", 9.0) == 0
    assert admitted(book, "a", 10.5) == 1


def test_a_rate_below_one_a_burst_admits_one_request_at_least() -> None:
    book = SenderBook(SenderLimits(requests_per_second=0.01, points_per_second=0.01, burst_seconds=1, senders=1))

    assert book.admit("a", 0.0) == 0.0
    assert book.admit("a", 0.0) == pytest.approx(100)


def test_a_sender_that_sends_too_much_is_named_once_in_the_log(caplog) -> None:
    senders = Senders(LIMITS, clock=lambda: 0.0)
    for _ in range(10):
        assert senders.admit("a\nb") == 0.0

    for _ in range(3):
        assert senders.admit("a\nb") > 0.0

    (record,) = caplog.records
    assert "'a\\nb' sends more than 2 requests or 100 points a second" in record.getMessage()


def test_points_are_charged_to_their_sender() -> None:
    senders = Senders(LIMITS, clock=lambda: 0.0)
    senders.charge("a", 1499)

    assert senders.admit("a") == pytest.approx(10)
    assert senders.admit("b") == 0.0


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("", ""),
    ],
)
def test_an_address_is_told_from_its_port(peer: str, address: str) -> None:
    assert address_of(peer) == address


class Call:
    """What gRPC tells of a call."""

    def __init__(self, identity: dict[str, list[bytes]]) -> None:
        self.auth_context = lambda: identity

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4711"


def test_a_sender_with_a_certificate_goes_by_its_name() -> None:
    assert sender_of(Call({"x509_common_name": [b"edge-01"], "transport_security_type": [b"ssl"]})) == "edge-01"


@pytest.mark.parametrize("identity", [{}, {"transport_security_type": [b"insecure"]}, {"x509_common_name": []}])
def test_a_sender_without_a_certificate_goes_by_its_address(identity) -> None:
    assert sender_of(Call(identity)) == "192.0.2.1"


def test_a_name_is_new_once_and_only_so_many_are_remembered() -> None:
    names = FirstTimes(2)

    assert [names.is_new(name) for name in ("a", "b", "a", "c", "c")] == [True, True, False, False, False]
