from __future__ import annotations

from dataclasses import replace

import pytest

from icosfl.bridge.decode import Point
from icosfl.bridge.rules import Rules, compile_rules
from icosfl.config import RuleConfig, SourceConfig
from icosfl.errors import ConfigError
from icosfl.schema import Schema, Series

SCHEMA = Schema((Series("cpu_usage", "%"), Series("memory_usage", "MiBy")))
CPU = SourceConfig(series="cpu_usage", metric="cpu", scale=100)
MEMORY = SourceConfig(series="memory_usage", metric="total", minus="free")
HOST = RuleConfig(name="host", match={"service.name": "host"}, sources=(CPU, MEMORY))


def point(metric: str, resource: dict[str, str] | None = None, **attributes: str) -> Point:
    return Point({"service.name": "host"} if resource is None else resource, metric, attributes, 1, 1.0)


def columns(rules: Rules, *points: Point) -> list[tuple[int, int]]:
    return [(match.point, match.source.column) for match in rules.match(points)]


def test_rules_send_each_metric_to_its_column() -> None:
    rules = compile_rules([HOST], SCHEMA)

    assert columns(rules, point("free"), point("cpu"), point("total")) == [(0, 1), (1, 0), (2, 1)]


def test_rules_want_both_metrics_of_a_difference() -> None:
    wanted = compile_rules([HOST], SCHEMA).wanted({"service.name": "host", "host.name": "a"})

    assert wanted == {"cpu", "total", "free"}


@pytest.mark.parametrize("resource", [{}, {"service.name": "other"}, {"host.name": "host"}])
def test_rules_do_not_know_a_resource_that_lacks_an_attribute(resource: dict[str, str]) -> None:
    rules = compile_rules([HOST], SCHEMA)

    assert rules.wanted(resource) is None
    assert columns(rules, point("cpu", resource)) == []


def test_rules_take_only_points_with_the_attributes_of_the_source() -> None:
    used = SourceConfig(series="memory_usage", metric="memory", attributes={"state": "used"})
    rules = compile_rules([replace(HOST, sources=(used,))], SCHEMA)

    points = (point("memory", state="free"), point("memory"), point("memory", state="used", numa="0"))

    assert columns(rules, *points) == [(2, 1)]


def test_rules_let_one_metric_feed_several_series() -> None:
    sources = (CPU, SourceConfig(series="memory_usage", metric="cpu"))
    rules = compile_rules([replace(HOST, sources=sources)], SCHEMA)

    assert columns(rules, point("cpu")) == [(0, 0), (0, 1)]


def test_rules_give_a_resource_to_the_first_rule_that_matches() -> None:
    special = RuleConfig(name="special", match={"service.name": "host", "zone": "a"}, sources=(CPU,))
    rules = compile_rules([special, HOST], SCHEMA)

    assert rules.wanted({"service.name": "host", "zone": "a"}) == {"cpu"}
    assert rules.wanted({"service.name": "host", "zone": "b"}) == {"cpu", "total", "free"}


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ([], "there is none"),
        ([HOST, replace(HOST, match={"a": "b"})], "the name host stands twice"),
        ([HOST, replace(HOST, name="again")], "again can never match"),
        ([HOST, replace(HOST, name="narrower", match={**HOST.match, "zone": "a"})], "narrower can never match"),
        ([replace(HOST, match={})], "host: match is empty"),
        ([replace(HOST, sources=())], "host: has no sources"),
        ([replace(HOST, sources=(CPU, replace(MEMORY, series="cpu_usage")))], "host: two sources fill the series cpu"),
        ([replace(HOST, sources=(replace(CPU, series="gpu"),))], "host: gpu: no such series; there are cpu_usage"),
        ([replace(HOST, sources=(replace(CPU, metric=""),))], "host: cpu_usage: metric is empty"),
        ([replace(HOST, sources=(replace(CPU, minus="cpu"),))], "cpu minus itself"),
        ([replace(HOST, sources=(replace(CPU, scale=0),))], "scale is 0"),
        ([replace(HOST, sources=(replace(CPU, scale=float("nan")),))], "scale is nan"),
    ],
)
def test_rules_that_cannot_work_are_refused_with_their_name(configs: list[RuleConfig], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        compile_rules(configs, SCHEMA)

    assert caught.value.cure
