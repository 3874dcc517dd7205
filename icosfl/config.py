"""The only module that reads configuration files and the environment.

Files are TOML, rendered by the Ansible roles from `group_vars/`. A value that the fleet decides has no default here:
a missing key is an error that names the key, the file, and what was expected.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from icosfl.errors import ConfigError
from icosfl.schema import Schema, Series

NODE_CONFIG_VARIABLE = "ICOSFL_NODE_CONFIG"

_STRICT = ConfigDict(extra="forbid")

LogLevel = Literal["debug", "info", "warning", "error"]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(gt=0, le=1e9)]

T = TypeVar("T")


@checked(frozen=True, config=_STRICT)
class Endpoint:
    """An address to listen on (port 0: any free one) or to call."""

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@checked(frozen=True, config=_STRICT)
class SeriesConfig:
    """One column of the store."""

    name: str
    unit: str


@checked(frozen=True, config=_STRICT)
class StoreConfig:
    """Where a node's rows are kept.

    `kind` memory keeps them in the process (tests, one-process trials); dataclay keeps them in the node's object store.
    `backends_at` is for who is not on the store's own network: the host at which its backends are reached, on the ports
    that they have; "" means where they say they are.
    """

    kind: Literal["memory", "dataclay"]
    alias: str
    capacity_rows: int
    deadline_seconds: float
    metadata: Endpoint
    dataset: str
    username: str
    password: str
    backends_at: str = ""


@checked(frozen=True, config=_STRICT)
class DataclayConfig:
    """The three dataClay services of a node, and the Redis that they share.

    Each service listens at its endpoint and finds the others at theirs. `storage_dir` holds the backend's objects; they
    are written there every `checkpoint_seconds`. A starting service waits `start_timeout_seconds` for what it needs.
    `username`, `password` and `dataset` are those of the stores' configurations.
    """

    redis: Endpoint
    metadata: Endpoint
    backend: Endpoint
    proxy: Endpoint
    storage_dir: Path
    checkpoint_seconds: _Seconds
    start_timeout_seconds: _Seconds
    dataset: str
    username: str
    password: str
    log_level: LogLevel


@checked(frozen=True, config=_STRICT)
class CollectConfig:
    """The host-metrics service: what it samples or scrapes, its own Prometheus page, and where it pushes.

    `source` both scrapes, and samples what the scraped page lacks. Without `push_to` the page is all there is: another
    collector brings the host's metrics to the bridge.
    """

    host: str
    service_name: str
    listen: Endpoint
    period_seconds: _Seconds
    source: Literal["embedded", "scrape", "both"]
    scrape_url: str
    scrape_keep: str
    powercap_root: str
    powercap_simulated: bool
    push_timeout_seconds: _Seconds
    backlog_batches: Annotated[int, Field(ge=1)]
    log_level: LogLevel
    push_to: Endpoint | None = None
    certificates: dict[str, str] = field(default_factory=dict)  # files by name, whose end the page shows


@checked(frozen=True, config=_STRICT)
class SourceConfig:
    """Which OTLP metric becomes which series: value = (metric - minus) * scale, of points with these attributes."""

    series: str
    metric: str
    scale: float = 1.0
    minus: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


@checked(frozen=True, config=_STRICT)
class RuleConfig:
    """For resources whose attributes equal `match`, the metrics that are kept."""

    name: str
    match: dict[str, str]
    sources: tuple[SourceConfig, ...]


@checked(frozen=True, config=_STRICT)
class SpoolConfig:
    """What the bridge has acknowledged and the store may still lose: records in files of `directory`.

    Together they take at most `max_bytes`. `fsync` says when they are on the disk, and not only with the kernel:
    before each acknowledgement (always), every `fsync_seconds` (interval), or when the kernel likes (never). They
    outlive a killed bridge in any case; a machine that loses its power may lose those of the interval.
    """

    directory: Path
    max_bytes: Annotated[int, Field(ge=1 << 20)]
    fsync: Literal["always", "interval", "never"]
    fsync_seconds: _Seconds


@checked(frozen=True, config=_STRICT)
class SenderLimits:
    """How much one sender may send, and of how many senders the bridge keeps count.

    A sender that was quiet may send `burst_seconds` worth at once.
    """

    requests_per_second: _Positive
    points_per_second: _Positive
    burst_seconds: _Seconds
    senders: Annotated[int, Field(ge=1)]


@checked(frozen=True, config=_STRICT)
class BridgeTls:
    """Where collectors of other hosts send, with client certificates that the authority signed; PEM files."""

    listen: Endpoint
    certificate: Path
    key: Path
    authority: Path


@checked(frozen=True, config=_STRICT)
class BridgeConfig:
    """The OTLP bridge.

    Points at most `row_tolerance_seconds` apart join one row; points more than `future_tolerance_seconds` ahead of this
    host's clock are left out. `retry_seconds` is the time between two looks at the store, and what senders are told to
    wait before they send again; a stopping bridge gives requests in flight `drain_seconds`.
    """

    listen: Endpoint
    metrics_listen: Endpoint
    row_tolerance_seconds: Annotated[float, Field(ge=0, le=86400)]
    future_tolerance_seconds: Annotated[float, Field(ge=0, le=86400)]
    retry_seconds: _Seconds
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_message_bytes: Annotated[int, Field(gt=0)]
    spool: SpoolConfig
    limits: SenderLimits
    store: StoreConfig
    series: tuple[SeriesConfig, ...]
    rules: tuple[RuleConfig, ...]
    log_level: LogLevel
    tls: BridgeTls | None = None


@checked(frozen=True, config=_STRICT)
class NodeConfig:
    """What a node's ClientApp, ServerApp and forecast service share: its name, its store, its model directory."""

    host: str
    period_seconds: _Seconds
    max_gap_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    stale_after_seconds: _Seconds
    models_dir: Path
    runs_dir: Path
    store: StoreConfig
    series: tuple[SeriesConfig, ...]


@checked(frozen=True, config=_STRICT)
class ForecastConfig:
    """The forecast service of one node: how often it looks for rows and models, and measures the model anew."""

    listen: Endpoint
    refresh_seconds: _Seconds
    evaluate_seconds: _Seconds
    node: NodeConfig
    log_level: LogLevel


@checked(frozen=True, config=_STRICT)
class ScheduleConfig:
    """When the fleet trains by itself: durations such as 24h, a time of day (UTC) such as 03:30; "" switches one off.

    A training is also due when the fleet's skill over persistence was below `drift_skill` in `drift_windows` checks in
    a row. What failed is tried again after `retry_seconds`, which double up to `retry_most_seconds`. A run of somebody
    else's that was interrupted is left to them for `grace_seconds`.
    """

    train_every: str
    train_at: str
    check_every: str
    drift_skill: Annotated[float, Field(le=1, allow_inf_nan=False)]
    drift_windows: Annotated[int, Field(ge=1, le=1000)]
    retry_seconds: _Seconds
    retry_most_seconds: _Seconds
    grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@checked(frozen=True, config=_STRICT)
class RetrainingConfig:
    """The service that trains by a schedule: when, and how it submits runs.

    It looks every `look_seconds` at what others do, waits `nodes_timeout_seconds` until `nodes` SuperNodes are online,
    and asks for word of a run at least every `run_timeout_seconds`. `run_config` are single values that differ from
    the app's own.
    """

    schedule: ScheduleConfig
    app_dir: Path
    flwr_home: Path
    connection: str
    runs_dir: Path
    state_dir: Path
    names_file: Path
    nodes: Annotated[int, Field(ge=0)]
    nodes_timeout_seconds: _Seconds
    run_timeout_seconds: _Seconds
    look_seconds: _Seconds
    run_config: dict[str, bool | int | float | str]
    log_level: LogLevel


def schema_of(series: tuple[SeriesConfig, ...]) -> Schema:
    """The schema that a configuration's series make up."""
    return Schema(tuple(Series(item.name, item.unit) for item in series))


def load(path: Path, kind: type[T]) -> T:
    """Read the TOML file at `path` as `kind`.

    Raises:
        ConfigError: the file is missing or no TOML, or a key is missing, unknown or of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", cure="run the playbook that renders it: site.yml"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path}: not TOML: {error}", cure="correct the file, or render it again with site.yml"
        ) from error
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
        raise ConfigError(
            f"{path}: {problems}", cure="correct these keys in group_vars and run site.yml again"
        ) from error


def node_config_path() -> Path:
    """The node configuration that the service's environment names.

    Raises:
        ConfigError: the environment does not name one.
    """
    value = os.environ.get(NODE_CONFIG_VARIABLE)
    if not value:
        raise ConfigError(
            f"{NODE_CONFIG_VARIABLE} is not set",
            cure="start the app through a SuperLink or SuperNode that site.yml deployed",
        )
    return Path(value)


def run_config(project: Path) -> dict[str, object]:
    """The run configuration that the Flower app in `project` states: `[tool.flwr.app.config]` of its pyproject.toml.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has no such table.
    """
    path = project / "pyproject.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return dict(data["tool"]["flwr"]["app"]["config"])
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", cure="run icosfl in a complete checkout"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}", cure="correct the file") from error
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: [tool.flwr.app.config] is missing", cure="restore the table") from error


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for libraries that are told nothing in another way, and set them back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def search_path() -> str:
    """The search path for programs, with those of this Python environment first."""
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, *filter(None, [os.environ.get("PATH")])])
