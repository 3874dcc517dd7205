"""Which points become which series. Pure: compiled once from the configuration, then asked for every request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from icosfl.bridge.attributes import Attributes
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


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """What the points of one metric of one rule are for: targets, and the attributes that each asks for.

    A target is `2 * number of the source`, and 1 more if the metric is the one that the source takes away. Two feeds
    are equal only if they are the same: a feed is a key of the identity cache.
    """

    takers: tuple[tuple[frozenset[tuple[str, str]], int], ...]

    def targets(self, attributes: Attributes) -> tuple[int, ...]:
        """The targets of a point with these attributes; none for a point that no source asks for."""
        items = attributes.items()
        return tuple(target for asked, target in self.takers if asked <= items)


@dataclass(frozen=True, slots=True)
class Rule:
    """The metrics, by name as in a request, that resources with these attributes feed."""

    name: str
    match: frozenset[tuple[str, str]]
    feeds: Mapping[bytes, Feed]


@dataclass(frozen=True, slots=True, eq=False)
class SourceTable:
    """What the sources do, by number.

    Args:
        columns: The column that each fills.
        scales: By what each multiplies.
        minus: Whether it takes away a second metric.
    """

    columns: NDArray[np.intp]
    scales: NDArray[np.float64]
    minus: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules, in the order of the configuration; the first one that matches a resource is its rule.

    Args:
        rules: The rules.
        sources: The sources of all of them, by column; where one stands here is its number.
        table: The same as arrays.
    """

    rules: tuple[Rule, ...]
    sources: tuple[Source, ...]
    table: SourceTable

    def rule(self, resource: Attributes) -> Rule | None:
        """The rule of a resource, None for one that no rule matches."""
        items = resource.items()
        return next((rule for rule in self.rules if rule.match <= items), None)


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
    sources = tuple(sorted((source for config in configs for source in _sources(config, schema)), key=_column))
    rules = tuple(Rule(config.name, frozenset(config.match.items()), _feeds(config, sources)) for config in configs)
    table = SourceTable(
        columns=np.array([source.column for source in sources], np.intp),
        scales=np.array([source.scale for source in sources], np.float64),
        minus=np.array([bool(source.minus) for source in sources], np.bool_),
    )
    return Rules(rules, sources, table)


def _sources(config: RuleConfig, schema: Schema) -> tuple[Source, ...]:
    where = f"rules: {config.name}"
    if not config.match:
        raise ConfigError(f"{where}: match is empty, it would take the metrics of any sender", cure=_CURE)
    if not config.sources:
        raise ConfigError(f"{where}: has no sources", cure=_CURE)
    sources = tuple(_source(source, config.name, schema) for source in config.sources)
    for one, other in combinations(sources, 2):
        if one.column == other.column:
            raise ConfigError(f"{where}: two sources fill the series {schema.names[one.column]}", cure=_CURE)
    return sources


def _column(source: Source) -> int:
    return source.column


def _feeds(config: RuleConfig, sources: Sequence[Source]) -> Mapping[bytes, Feed]:
    takers: dict[bytes, list[tuple[frozenset[tuple[str, str]], int]]] = {}
    for number, source in enumerate(sources):
        if source.rule == config.name:
            for part, metric in enumerate(filter(None, (source.metric, source.minus))):
                takers.setdefault(metric.encode(), []).append((source.attributes, 2 * number + part))
    return {metric: Feed(tuple(found)) for metric, found in takers.items()}


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
