"""The host-metrics service: takes a sample every period, shows it on the page, and hands it to the push."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from icosfl.collect.completed import Completed, Source
from icosfl.collect.notices import Notice
from icosfl.collect.otlp import Origin, Sender
from icosfl.collect.page import Health, HostPage, PageServer
from icosfl.collect.points import Batch
from icosfl.collect.push import PushCounts, Pusher
from icosfl.collect.sampler import Sampler
from icosfl.collect.scrape import Scraper, compile_keep
from icosfl.config import CollectConfig
from icosfl.errors import ConfigError, Unavailable

logger = logging.getLogger(__name__)

# The loop counts as standing still after so many periods, and after so many seconds.
_STALE_PERIODS = 3
_STALE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Turn:
    """When the next sample is due, and how many periods pass without one because they are over already."""

    due: float
    missed: int


def next_turn(due: float, now: float, period: float) -> Turn:
    """The turn after the one that was due at `due`: on the grid of periods, so that late samples cause no drift."""
    missed = max(int((now - due) // period), 0)
    return Turn(due + (missed + 1) * period, missed)


@dataclass(slots=True)
class _Progress:
    latest: Batch | None = None
    samples: int = 0
    failures: int = 0
    missed: int = 0
    last_monotonic: float = field(default_factory=time.monotonic)


class CollectService:
    """All parts of the service; use it in a `with` statement.

    Args:
        config: The service's configuration.

    Raises:
        ConfigError: a key does not fit the others.
        RunFailed: the page's address cannot be listened on.
    """

    def __init__(self, config: CollectConfig) -> None:
        self._config = config
        self._progress = _Progress()
        self._notice = Notice(logger)
        self._parts = ExitStack()
        self._source = self._open_source()
        self._page = PageServer(
            config.listen,
            HostPage(lambda: self._progress.latest, self.health, config.certificates),
            self.health,
            max(_STALE_PERIODS * config.period_seconds, _STALE_SECONDS),
        )
        self._parts.callback(self._page.close)
        self._pusher = self._open_pusher()

    def __enter__(self) -> Self:
        self._page.start()
        if self._pusher:
            self._pusher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._pusher.close(self._config.push_timeout_seconds) if self._pusher else 0
        if left:
            logger.warning("stopped; %d samples could not be handed to the bridge any more", left)
        self._parts.close()

    @property
    def port(self) -> int:
        """The page's port."""
        return self._page.port

    def health(self) -> Health:
        """The service's counts."""
        progress = self._progress
        pushed = self._pusher.counts() if self._pusher else PushCounts()
        return Health(progress.samples, progress.failures, progress.missed, progress.last_monotonic, pushed)

    def run(self, wait: Callable[[float], bool]) -> None:
        """Sample every period until `wait`, which waits at most the given seconds, returns True.

        Raises:
            RunFailed: the push ended unexpectedly.
        """
        period = self._config.period_seconds
        due = time.monotonic()
        while not wait(max(due - time.monotonic(), 0.0)):
            self._sample()
            if self._pusher:
                self._pusher.check()
            turn = next_turn(due, time.monotonic(), period)
            due = turn.due
            self._progress.missed += turn.missed

    def _sample(self) -> None:
        try:
            batch = self._source.collect()
        except Unavailable as error:
            self._progress.failures += 1
            self._progress.latest = None
            self._notice.trouble(f"no sample: {error}")
        else:
            self._notice.over("samples are taken again")
            self._progress.samples += 1
            self._progress.latest = batch
            if batch.points and self._pusher:
                self._pusher.offer(batch)
        self._progress.last_monotonic = time.monotonic()

    def _open_pusher(self) -> Pusher | None:
        config = self._config
        if config.push_to is None:
            return None
        sender = Sender(config.push_to, Origin(config.host, config.service_name), config.push_timeout_seconds)
        return Pusher(sender, config.backlog_batches)

    def _open_source(self) -> Source:
        config = self._config
        sampler = Sampler(Path(config.powercap_root), simulated=config.powercap_simulated)
        if config.source == "embedded":
            return sampler
        if not config.scrape_url:
            raise ConfigError(
                f'scrape_url: empty, but source is "{config.source}"',
                cure="name the page to scrape, or sample with embedded",
            )
        timeout = min(config.period_seconds, config.push_timeout_seconds)
        scraper = Scraper(config.scrape_url, compile_keep(config.scrape_keep), timeout)
        self._parts.callback(scraper.close)
        if config.source == "scrape":
            return scraper
        return Completed(scraper, sampler, simulated=config.powercap_simulated)
