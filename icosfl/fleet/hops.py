"""The hops of the data's way, each proved by a question to the service itself; the answer is one line for a person.

A question is asked until it is answered well or its time is over, so a hop that is just starting passes and a dead one
fails with the last reason.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from icosfl.errors import IcosflError, Unavailable
from icosfl.fleet.health import probe
from icosfl.fleet.service import HealthCheck

PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 5.0


def ask_all(
    questions: Iterable[Mapping[str, Any]], timeout_seconds: float
) -> tuple[list[str], list[tuple[str, IcosflError]]]:
    """Ask the questions one after another, all within `timeout_seconds`.

    Args:
        questions: Each with `name`, `kind` and what its kind needs, as the module `hop` lists it.
        timeout_seconds: How long to ask; what is asked when it is over is asked once.

    Returns:
        A line for each good answer, and the name and the reason of each question without one.
    """
    deadline = time.monotonic() + timeout_seconds
    answers, problems = [], []
    for question in questions:
        name = str(question["name"])
        try:
            answers.append(f"{name}: {ask(_question(question), deadline - time.monotonic())}")
        except IcosflError as error:
            problems.append((name, error))
    return answers, problems


def _question(given: Mapping[str, Any]) -> Callable[[], str]:
    match given["kind"]:
        case "page":
            return lambda: page_value(given["url"], given["metric"])
        case "rows":
            return lambda: fresh_rows(given["url"], given["max_age_seconds"])
        case "supernodes":
            return lambda: supernodes(Path(given["home"]), given["connection"], given["wanted"])
        case "proxy":
            return lambda: store_through_proxy(given["address"], given["alias"], given["dataset"], given["username"])
        case "schedule":
            return lambda: schedule(Path(given["path"]), given["max_age_seconds"])
        case kind:
            return lambda: health(kind, given["address"], given["path"])


def ask(question: Callable[[], str], timeout_seconds: float) -> str:
    """Ask until the question is answered without `Unavailable`, at most `timeout_seconds`.

    Raises:
        Unavailable: the last reason why it was not.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return question()
        except Unavailable:
            if time.monotonic() + PAUSE_SECONDS >= deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def health(kind: str, address: str, path: str = "/") -> str:
    """Ask a service for its health: `redis`, `grpc`, `tcp` or `http`.

    Args:
        kind: How to ask.
        address: Where it listens.
        path: What to get of `http`; of `grpc`, after the slash, the service asked about, or nothing for the whole.

    Raises:
        Unavailable: it does not answer, or not well.
    """
    host, _, port = address.rpartition(":")
    service = path.removeprefix("/") if kind == "grpc" else ""
    check = HealthCheck(kind, host, int(port), path, service, ANSWER_SECONDS)  # type: ignore[arg-type]
    reason = probe(check, ANSWER_SECONDS)
    if reason:
        raise Unavailable(reason, cure="see the service's log, and icosfl status")
    return f"{check.address} answers"


def page_value(url: str, metric: str) -> str:
    """Read a Prometheus page and want the sum of `metric` above 0.

    Raises:
        Unavailable: no page, no such metric, or it is 0.
    """
    from prometheus_client.parser import text_string_to_metric_families

    text = _get(url)
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, IndexError) as error:  # what its parser raises
        raise _stranger(url, f"is no Prometheus page: {error}") from error
    samples = [sample.value for family in families for sample in family.samples if sample.name == metric]
    total = sum(samples)
    if total <= 0:
        raise Unavailable(
            f"{url}: {metric} is {total:g}" if samples else f"{url}: {metric} is not there",
            cure="see whether the hop before it works",
        )
    return f"{metric} = {total:g}"


def fresh_rows(url: str, max_age_seconds: float) -> str:
    """Ask a forecast service for its node's rows, and want the newest to be fresh.

    Raises:
        Unavailable: no answer, no rows, or old ones.
    """
    text = _get(url, {200, 503})
    try:
        store: Mapping[str, Any] = json.loads(text)["store"] or {}
    except (ValueError, LookupError, TypeError) as error:
        raise _stranger(url, "is not a forecast service's answer") from error
    rows, age = store.get("rows") or 0, store.get("age_seconds")
    if not rows or age is None:
        raise Unavailable(f"{url}: the store has no rows yet", cure="see whether the collector and the bridge work")
    if age > max_age_seconds:
        raise Unavailable(
            f"{url}: the newest of {rows} rows is {age:.0f} s old, at most {max_age_seconds:g} s are wanted",
            cure="see whether the collector and the bridge work",
        )
    return f"{rows} rows, the newest {age:.1f} s old"


def supernodes(home: Path, connection: str, wanted: int) -> str:
    """Ask the SuperLink how many SuperNodes are online.

    Raises:
        Unavailable: it does not answer, or fewer are online than wanted.
    """
    from icosfl.fleet.flower import Flower

    online = Flower(home, connection).online_nodes()
    if online < wanted:
        raise Unavailable(
            f"{online} of {wanted} SuperNodes are online", cure="see the supernode services: icosfl status"
        )
    return f"{online} SuperNodes are online"


def store_through_proxy(address: str, alias: str, dataset: str, username: str) -> str:
    """Call the node's window through the dataClay proxy, as a dataClay client elsewhere would.

    Raises:
        Unavailable: the proxy, or what is behind it, does not answer.
    """
    from icosfl.config import Endpoint
    from icosfl.store.proxied import rows_through

    host, _, port = address.rpartition(":")
    rows = rows_through(Endpoint(host, int(port)), alias, dataset, username, ANSWER_SECONDS)
    return f"the proxy at {address} reaches {alias}, {rows} rows"


def schedule(state_file: Path, max_age_seconds: float) -> str:
    """Read what the service that trains by itself does next and did last.

    Raises:
        Unavailable: it says nothing, or has not looked at its schedule for too long.
    """
    from icosfl.fleet.retraining import read_note

    note = read_note(state_file)
    age = time.time() - note.looked
    if age > max_age_seconds:
        raise Unavailable(
            f"it looked at its schedule {age:.0f} s ago, at most {max_age_seconds:g} s are wanted",
            cure="see the service's log, and icosfl status",
        )
    return note.line


def _stranger(url: str, words: str) -> Unavailable:
    return Unavailable(f"{url} {words}", cure="see what listens on this port")


def _get(url: str, accepted: set[int] | None = None) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unavailable(f"{url}: {error}", cure="see the service's log, and icosfl status") from error
    finally:
        connection.close()
    if answer.status not in (accepted or {200}):
        raise Unavailable(f"{url}: answers {answer.status}", cure="see the service's log")
    return body
