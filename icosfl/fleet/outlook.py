"""What a node's forecast service says, for people and programs that look at the whole fleet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from icosfl.errors import IcosflError
from icosfl.fleet.place import Place
from icosfl.serve.client import read_forecast, read_readiness
from icosfl.serve.values import ForecastPage, StoreState
from icosfl.train.scores import Summary, summary

ASK_SECONDS = 5.0
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Outlook:
    """A node's forecasts and store; without them, why there are none.

    Args:
        host: The node.
        page: Its forecasts; None when its service does not answer.
        store: What its store holds; None when that is not known.
        problem: Why there are no forecasts; "" when there are.
    """

    host: str
    page: ForecastPage | None
    store: StoreState | None
    problem: str

    @property
    def digest(self) -> str:
        """The digest of the model that answers; "" without one."""
        return self.page.model.digest if self.page is not None and self.page.model is not None else ""


def ask(place: Place) -> Outlook:
    """Ask a node of this machine; one that does not answer is told with the reason."""
    try:
        page = read_forecast(place.forecast, ASK_SECONDS)
        store = read_readiness(place.forecast, ASK_SECONDS).store
    except IcosflError as error:
        return Outlook(place.name, None, None, str(error))
    problem = "" if page.forecasts else "; ".join(page.reasons) or "it has no forecasts and does not say why"
    return Outlook(place.name, page, store, problem)


def summarise(outlooks: Iterable[Outlook]) -> tuple[Summary, ...]:
    """How good the predictors are over all nodes that have measured them, by series and horizon."""
    pages = {each.host: each.page for each in outlooks if each.page is not None}
    return summary({host: page.evaluation.scores for host, page in pages.items() if page.evaluation is not None})


def await_new_models(  # noqa: PLR0913 (the last two are for tests)
    look: Callable[[], tuple[Outlook, ...]],
    before: Mapping[str, str],
    timeout: float,
    *,
    handed_out: str = "",
    every: float = POLL_SECONDS,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Outlook, ...]:
    """Look until every node that answers has another model than before, or the run's, at most `timeout` seconds.

    Args:
        look: Asks every node.
        before: The digest of each node's model before the run.
        timeout: Seconds.
        handed_out: The digest of the run's model, which may be that of before; "" when nobody said it.
        every: Seconds between two looks.
        wait: Waits so many seconds.
        clock: Seconds that only ascend.

    Returns:
        What they said last; a node that the run left out still has its model of before.
    """
    deadline = clock() + timeout
    while True:
        found = look()
        waiting = [each for each in found if each.page is not None and each.digest != (handed_out or None)]
        old = [each for each in waiting if each.digest in {"", before.get(each.host, "")}]
        if not old or clock() >= deadline:
            return found
        wait(every)
