"""Which points become which series. Pure: compiled once from the configuration, then asked for every request."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from icosfl.bridge.decode import Attributes, Point
from icosfl.config import RuleConfig, SourceConfig
from icosfl.errors import ConfigError
from icosfl.schema import Schema

_CURE = "correct icosfl_bridge_rules in group_vars and run site.yml again"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of one column come from: (metric - minus) * scale, of points that have these attributes."""

    rule: str
    column: int
    metric: str
    minus: str
    scale: float
    attributes: frozenset[tuple[str, str]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The one or two metrics that it takes."""
        return (self.metric, self.minus) if self.minus else (self.metric,)

    def takes(self, point: Point) -> bool:
        """Whether the point is one of its metrics and has its attributes."""
        return point.metric in self.metrics and self.attributes.issubset(point.attributes.items())


@dataclass(frozen=True, slots=True)
class Rule:
    """The sources that resources with these attributes feed."""

    name: str
    match: frozenset[tuple[str, str]]
    sources: tuple[Source, ...]
    metrics: frozenset[str]


@dataclass(frozen=True, slots=True)
class Match:
    """The point at this index of the request feeds this source."""

    point: int
    source: Source


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules, in the order of the configuration; the first one that matches a resource is its rule."""

    rules: tuple[Rule, ...]

    def rule(self, resource: Attributes) -> Rule | None:
        """The rule of a resource, None for one that no rule matches."""
        return next((rule for rule in self.rules if rule.match.issubset(resource.items())), None)

    def wanted(self, resource: Attributes) -> Collection[str] | None:
        """The names of the metrics that the resource's rule takes, None for a resource without a rule."""
        rule = self.rule(resource)
        return None if rule is None else rule.metrics

    def match(self, points: Sequence[Point]) -> tuple[Match, ...]:
        """Every pair of a point and a source that takes it; a point in none of them has other attributes."""
        return tuple(Match(index, source) for index, point in enumerate(points) for source in self._sources(point))

    def _sources(self, point: Point) -> Iterator[Source]:
        rule = self.rule(point.resource)
        return (source for source in (rule.sources if rule else ()) if source.takes(point))


def compile_rules(configs: Sequence[RuleConfig], schema: Schema) -> Rules:
    """Make rules of their configuration.

    Raises:
        ConfigError: a rule could never match, matches everything or does nothing, two have one name, or a source names
            a series that the schema lacks or that its rule fills already, or cannot give a value.
    """
    if not configs:
        raise ConfigError("rules: there is none, so that nothing would be stored", cure=_CURE)
    for earlier, later in combinations(configs, 2):
        if earlier.name == later.name:
            raise ConfigError(f"rules: the name {later.name} stands twice", cure=_CURE)
        if earlier.match.items() <= later.match.items():
            raise ConfigError(
                f"rules: {later.name} can never match, {earlier.name} takes the same resources before it", cure=_CURE
            )
    return Rules(tuple(_rule(config, schema) for config in configs))


def _rule(config: RuleConfig, schema: Schema) -> Rule:
    where = f"rules: {config.name}"
    if not config.match:
        raise ConfigError(f"{where}: match is empty, it would take the metrics of any sender", cure=_CURE)
    if not config.sources:
        raise ConfigError(f"{where}: has no sources", cure=_CURE)
    sources = tuple(_source(source, config.name, schema) for source in config.sources)
    for one, other in combinations(sources, 2):
        if one.column == other.column:
            raise ConfigError(f"{where}: two sources fill the series {schema.names[one.column]}", cure=_CURE)
    metrics = frozenset(metric for source in sources for metric in source.metrics)
    return Rule(config.name, frozenset(config.match.items()), sources, metrics)


def _source(config: SourceConfig, rule: str, schema: Schema) -> Source:
    where = f"rules: {rule}: {config.series}"
    if config.series not in schema.names:
        raise ConfigError(f"{where}: no such series; there are {', '.join(schema.names)}", cure=_CURE)
    if not config.metric:
        raise ConfigError(f"{where}: metric is empty", cure=_CURE)
    if config.metric == config.minus:
        raise ConfigError(f"{where}: {config.metric} minus itself is always 0", cure=_CURE)
    if config.scale == 0 or not math.isfinite(config.scale):
        raise ConfigError(f"{where}: scale is {config.scale}, expected a finite number other than 0", cure=_CURE)
    attributes = frozenset(config.attributes.items())
    return Source(rule, schema.index(config.series), config.metric, config.minus, config.scale, attributes)
