"""When a store that began anew has lost rows for good."""

from __future__ import annotations

from icosfl.bridge.losses import Losses
from icosfl.store import Position, StoreInfo


def holding(rows: int, epoch: str) -> StoreInfo:
    return StoreInfo(rows, 100, None, None, Position(epoch, rows))


def test_a_store_that_is_seen_for_the_first_time_lost_nothing() -> None:
    assert Losses().note(holding(0, "first"), handed_again=True) == 0


def test_rows_that_are_gone_with_an_epoch_are_told_once() -> None:
    losses = Losses()
    losses.note(holding(9, "first"), handed_again=True)

    assert losses.note(holding(2, "second"), handed_again=True) == 7
    assert losses.note(holding(2, "second"), handed_again=True) == 0


def test_rows_that_are_handed_over_again_are_not_lost() -> None:
    losses = Losses()
    losses.note(holding(9, "first"), handed_again=True)

    assert losses.note(holding(2, "second"), handed_again=False) == 0
    assert losses.note(holding(9, "second"), handed_again=True) == 0


def test_a_store_that_is_killed_again_meanwhile_is_measured_by_what_it_had_first() -> None:
    losses = Losses()
    losses.note(holding(9, "first"), handed_again=True)
    losses.note(holding(2, "second"), handed_again=False)

    assert losses.note(holding(0, "third"), handed_again=False) == 0
    assert losses.note(holding(6, "third"), handed_again=True) == 3


def test_a_window_that_shrinks_within_an_epoch_lost_nothing() -> None:
    losses = Losses()
    losses.note(holding(9, "first"), handed_again=True)

    assert losses.note(holding(3, "first"), handed_again=True) == 0
