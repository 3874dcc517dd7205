"""Another exporter's metrics (Scaphandre, node_exporter, any Prometheus page) as points with its names and labels."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from icosfl.collect.points import Batch, Kind, Point, attributes_of
from icosfl.errors import ConfigError, Unavailable

logger = logging.getLogger(__name__)

_MAX_BYTES = 16 * 2**20
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SUFFIXES = ("", "_total", "_sum", "_count", "_bucket", "_created")


@dataclass(frozen=True, slots=True)
class Page:
    """What a page holds: its points, and how many kept samples had no finite value."""

    points: tuple[Point, ...]
    not_finite: int


def compile_keep(expression: str) -> re.Pattern[str]:
    """The regular expression that a raw line must match, from its start, to be kept; empty keeps all.

    Raises:
        ConfigError: it is no regular expression.
    """
    try:
        return re.compile(expression)
    except re.error as error:
        raise ConfigError(
            f"scrape_keep: {expression!r} is no regular expression: {error}", cure="correct it in group_vars"
        ) from error


def parse_page(text: str, keep: re.Pattern[str], time_ns: int) -> Page:
    """Read a page in the Prometheus text format. Lines that `keep` does not match are left out before they are parsed.

    Times of the page's own are not used: all points carry `time_ns`.

    Raises:
        ValueError: a kept line is not in the format.
    """
    kept = _filter(text, keep)
    names = {name for line in kept if (name := _name(line))}
    points: list[Point] = []
    not_finite = 0
    try:
        families = list(text_string_to_metric_families("\n".join(kept) + "\n"))
    except IndexError as error:  # some broken labels make the parser stumble so
        raise ValueError(f"a line is not in the format: {error}") from error
    for family in families:
        for point in _points(family, names, time_ns):
            if math.isfinite(point.value):
                points.append(point)
            else:
                not_finite += 1
    return Page(tuple(points), not_finite)


def _filter(text: str, keep: re.Pattern[str]) -> list[str]:
    """The kept samples, and those TYPE lines that belong to one of them."""
    lines = text.splitlines()
    samples = [bool(line) and not line.startswith("#") and keep.match(line) is not None for line in lines]
    names = {_name(line) for line, kept in zip(lines, samples, strict=True) if kept}
    return [
        line
        for line, kept in zip(lines, samples, strict=True)
        if kept or (line.startswith("# TYPE ") and not names.isdisjoint(_family(line)))
    ]


def _name(line: str) -> str:
    match = _NAME.match(line)
    return match.group() if match else ""


def _family(type_line: str) -> list[str]:
    base = _name(type_line.removeprefix("# TYPE "))
    return [base + suffix for suffix in _SUFFIXES] if base else []


def _points(family: Metric, names: set[str], time_ns: int) -> Iterator[Point]:
    for sample in family.samples:
        # The parser renames counters to *_total as OpenMetrics asks; a page that calls them otherwise keeps its names.
        name = sample.name if sample.name in names else sample.name.removesuffix("_total")
        kind = Kind.COUNTER if _counts(family.type, sample.name) else Kind.GAUGE
        yield Point(name, "", kind, sample.value, time_ns, attributes_of(sample.labels))


def _counts(family: str, sample: str) -> bool:
    if family in {"histogram", "summary"}:
        return sample.endswith(("_bucket", "_sum", "_count"))
    return family == "counter" and not sample.endswith("_created")


class Scraper:
    """A source of batches: another exporter's page.

    Args:
        url: The page.
        keep: Which raw lines are kept.
        timeout_seconds: How long one scrape may take altogether.
        wall_ns: The clock that stamps the points, nanoseconds since the epoch.
    """

    def __init__(
        self, url: str, keep: re.Pattern[str], timeout_seconds: float, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._url = url
        self._keep = keep
        self._timeout = timeout_seconds
        self._wall = wall_ns
        # The environment's proxies are not for services of one's own hosts.
        self._client = httpx.Client(
            timeout=timeout_seconds, trust_env=False, headers={"accept": "text/plain;version=0.0.4"}
        )

    def collect(self) -> Batch:
        """Scrape once.

        Raises:
            Unavailable: the target does not answer in time, or not with a page.
        """
        now = self._wall()
        try:
            page = parse_page(self._fetch(), self._keep, now)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(
                f"{self._url} cannot be scraped: {reason}", cure="start the exporter or correct scrape_url"
            ) from error
        except ValueError as error:
            raise Unavailable(
                f"{self._url} is no Prometheus page: {error}", cure="point scrape_url at an exporter's metrics page"
            ) from error
        if page.not_finite:
            logger.debug("%s: %d samples without a finite value left out", self._url, page.not_finite)
        return Batch(now, page.points)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _fetch(self) -> str:
        deadline = time.monotonic() + self._timeout
        body = bytearray()
        with self._client.stream("GET", self._url) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"it is longer than {_MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"no full answer within {self._timeout:g} s")
        return body.decode("utf-8")
