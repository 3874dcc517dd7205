from __future__ import annotations

from dataclasses import replace

import pytest

from icosfl.bridge.rules import Rules, compile_rules
from icosfl.config import RuleConfig, SourceConfig
from icosfl.errors import ConfigError
from icosfl.schema import Schema, Series

SCHEMA = Schema((Series("cpu_usage", "%"), Series("memory_usage", "MiBy")))
CPU = SourceConfig(series="cpu_usage", metric="cpu", scale=100)
MEMORY = SourceConfig(series="memory_usage", metric="total", minus="free")
HOST = RuleConfig(name="host", match={"service.name": "host"}, sources=(CPU, MEMORY))


HOSTS = {"service.name": "host"}


def columns(rules: Rules, metric: str, attributes: dict[str, str] | None = None) -> list[tuple[int, int]]:
    """The columns that a point of the host feeds, each with the part of the value that it is there."""
    rule = rules.rule(HOSTS)
    feed = rule.feeds.get(metric.encode()) if rule else None
    targets = feed.targets(attributes or {}) if feed else ()
    return [(rules.sources[target // 2].column, target % 2) for target in targets]


def metrics(rules: Rules, resource: dict[str, str]) -> set[bytes] | None:
    rule = rules.rule(resource)
    return None if rule is None else set(rule.feeds)


def test_rules_send_each_metric_to_its_column() -> None:
    rules = compile_rules([HOST], SCHEMA)

    assert [columns(rules, metric) for metric in ("cpu", "total", "free", "load")] == [[(0, 0)], [(1, 0)], [(1, 1)], []]


def test_rules_want_both_metrics_of_a_difference() -> None:
    assert metrics(compile_rules([HOST], SCHEMA), {**HOSTS, "host.name": "a"}) == {b"cpu", b"total", b"free"}


@pytest.mark.parametrize("resource", [{}, {"service.name": "other"}, {"host.name": "host"}])
def test_rules_do_not_know_a_resource_that_lacks_an_attribute(resource: dict[str, str]) -> None:
    assert compile_rules([HOST], SCHEMA).rule(resource) is None


def test_rules_take_only_points_with_the_attributes_of_the_source() -> None:
    used = SourceConfig(series="memory_usage", metric="memory", attributes={"state": "used"})
    rules = compile_rules([replace(HOST, sources=(used,))], SCHEMA)

    assert columns(rules, "memory", {"state": "free"}) == []
    assert columns(rules, "memory") == []
    assert columns(rules, "memory", {"state": "used", "numa": "0"}) == [(1, 0)]


def test_rules_let_one_metric_feed_several_series() -> None:
    sources = (CPU, SourceConfig(series="memory_usage", metric="cpu"))
    rules = compile_rules([replace(HOST, sources=sources)], SCHEMA)

    assert columns(rules, "cpu") == [(0, 0), (1, 0)]


def test_rules_give_a_resource_to_the_first_rule_that_matches() -> None:
    special = RuleConfig(name="special", match={"service.name": "host", "zone": "a"}, sources=(CPU,))
    rules = compile_rules([special, HOST], SCHEMA)

    assert metrics(rules, {**HOSTS, "zone": "a"}) == {b"cpu"}
    assert metrics(rules, {**HOSTS, "zone": "b"}) == {b"cpu", b"total", b"free"}


def test_rules_number_their_sources_by_column_and_give_them_as_arrays() -> None:
    other = RuleConfig(name="other", match={"a": "b"}, sources=(replace(CPU, scale=2),))

    rules = compile_rules([HOST, other], SCHEMA)

    assert [(source.rule, source.column) for source in rules.sources] == [("host", 0), ("other", 0), ("host", 1)]
    assert rules.table.columns.tolist() == [0, 0, 1]
    assert rules.table.scales.tolist() == [100, 2, 1]
    assert rules.table.minus.tolist() == [False, False, True]


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
