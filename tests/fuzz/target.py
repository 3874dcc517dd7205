"""What libFuzzer calls: each run is one body of a request."""

from __future__ import annotations

import random
import sys

import atheris
from google.protobuf.message import DecodeError

with atheris.instrument_imports(include=["icosfl.bridge"]):
    from icosfl.bridge.wire import view_request
    from support.otlp_fuzz import check, new_reader

# One reader for all runs: what an earlier request left in its cache must not change what a later one gives.
READER = new_reader()


def run(body: bytes) -> None:
    check(READER, body)


def mutate(body: bytes, most: int, seed: int) -> bytes:
    """Spoil a point inside its request, whose lengths stay right; else whatever libFuzzer likes."""
    chance = random.Random(seed)
    try:
        request = view_request(body)
    except DecodeError:
        return atheris.Mutate(body, most)
    metrics = [
        metric for group in request.resource_metrics for scope in group.scope_metrics for metric in scope.metrics
    ]
    points = [points for metric in metrics for points in (metric.gauge.data_points, metric.sum.data_points) if points]
    if not points or chance.random() < 0.3:
        return atheris.Mutate(body, most)
    some = chance.choice(points)
    place = chance.randrange(len(some))
    if chance.random() < 0.5:
        some[place] = atheris.Mutate(some[place], len(some[place]) + 20)
    else:
        some.extend([some[place]] * chance.randint(1, 10))
    changed = request.SerializeToString()
    return changed if len(changed) <= most else body


if __name__ == "__main__":
    atheris.Setup(sys.argv, run, custom_mutator=mutate)
    atheris.Fuzz()
