"""The documented shape of what we use of otelcol-contrib (0.123 to 0.162): keys, types, and names of components.

The program cannot be had where the tests run. It refuses unknown keys, and so does this; what they do is not checked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

# Go's durations, without fractions, which Prometheus does not take.
Duration = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]*)(ms|s|m|h)$")]
Address = Annotated[str, StringConstraints(pattern=r"^([a-z0-9.-]+|\[[0-9a-f:]+\]):[0-9]+$")]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z_]+(/[a-z_]+)?$")]
Count = Annotated[int, Field(gt=0)]
Statement = Annotated[str, StringConstraints(min_length=1)]


class Shape(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class HealthCheck(Shape):
    endpoint: Address


class Compaction(Shape):
    on_start: bool = False
    on_rebound: bool = False
    directory: str
    cleanup_on_start: bool = False
    rebound_needed_threshold_mib: Count = 100
    rebound_trigger_threshold_mib: Count = 10
    max_transaction_size: int = 65536
    check_interval: Duration = "5s"


class FileStorage(Shape):
    directory: str
    create_directory: bool = False
    timeout: Duration = "1s"
    fsync: bool = False
    compaction: Compaction


class Extensions(Shape):
    health_check: HealthCheck
    file_storage: FileStorage = Field(alias="file_storage/queue")


class Grpc(Shape):
    endpoint: Address


class Protocols(Shape):
    grpc: Grpc


class OtlpReceiver(Shape):
    protocols: Protocols


class Relabel(Shape):
    source_labels: list[str]
    regex: str
    action: Literal["keep", "drop", "replace", "labeldrop", "labelkeep"]


class Targets(Shape):
    targets: Annotated[list[Address], Field(min_length=1)]


class Job(Shape):
    job_name: str
    scrape_interval: Duration
    scrape_timeout: Duration
    honor_timestamps: bool = True
    metrics_path: str = "/metrics"
    static_configs: list[Targets]
    metric_relabel_configs: list[Relabel] = []


class Scraping(Shape):
    scrape_configs: Annotated[list[Job], Field(min_length=1)]


class PrometheusReceiver(Shape):
    config: Scraping


class Enabled(Shape):
    enabled: bool


class CpuMetrics(Shape):
    time: Enabled = Field(alias="system.cpu.time")
    utilization: Enabled = Field(alias="system.cpu.utilization")


class Cpu(Shape):
    metrics: CpuMetrics


class Scrapers(Shape):
    cpu: Cpu


class HostmetricsReceiver(Shape):
    collection_interval: Duration
    initial_delay: Duration = "1s"
    root_path: str = ""
    scrapers: Scrapers


class Receivers(Shape):
    otlp: OtlpReceiver | None = None
    prometheus: PrometheusReceiver | None = None
    hostmetrics: HostmetricsReceiver | None = None


class MemoryLimiter(Shape):
    check_interval: Duration
    limit_mib: Count
    spike_limit_mib: Count

    @model_validator(mode="after")
    def spike_is_less(self) -> Self:
        assert self.spike_limit_mib < self.limit_mib
        return self


class Attribute(Shape):
    key: str
    value: str
    action: Literal["insert", "update", "upsert"]


class ResourceProcessor(Shape):
    attributes: Annotated[list[Attribute], Field(min_length=1)]


class FilteredMetrics(Shape):
    metric: list[Statement] = []
    datapoint: list[Statement] = []


class FilterProcessor(Shape):
    error_mode: Literal["ignore", "silent", "propagate"]
    metrics: FilteredMetrics


class Statements(Shape):
    context: Literal["resource", "scope", "metric", "datapoint"]
    statements: Annotated[list[Statement], Field(min_length=1)]


class TransformProcessor(Shape):
    error_mode: Literal["ignore", "silent", "propagate"]
    metric_statements: list[Statements]


class BatchProcessor(Shape):
    timeout: Duration
    send_batch_size: Count
    send_batch_max_size: int = 0


class Processors(Shape):
    memory_limiter: MemoryLimiter
    resource: ResourceProcessor
    asked: FilterProcessor | None = Field(alias="filter/asked", default=None)
    sample: TransformProcessor | None = Field(alias="transform/sample", default=None)
    batch: BatchProcessor


class Tls(Shape):
    insecure: bool


class Retry(Shape):
    enabled: bool
    initial_interval: Duration
    max_interval: Duration
    max_elapsed_time: Duration


class SendingQueue(Shape):
    enabled: bool
    num_consumers: Count
    sizer: Literal["requests", "items", "bytes"]
    queue_size: Count
    storage: Id
    block_on_overflow: bool = False


class OtlpExporter(Shape):
    endpoint: Address
    tls: Tls
    compression: Literal["gzip", "snappy", "zstd", "none"]
    timeout: Duration
    retry_on_failure: Retry
    sending_queue: SendingQueue


class Exporters(Shape):
    bridge: OtlpExporter = Field(alias="otlp/bridge")


class OwnPage(Shape):
    host: str
    port: Count


class OwnExporter(Shape):
    prometheus: OwnPage


class Pull(Shape):
    exporter: OwnExporter


class Reader(Shape):
    pull: Pull


class OwnMetrics(Shape):
    level: Literal["none", "basic", "normal", "detailed"]
    readers: list[Reader]


class OwnLogs(Shape):
    level: Literal["debug", "info", "warn", "error"]


class Telemetry(Shape):
    logs: OwnLogs
    metrics: OwnMetrics


class Pipeline(Shape):
    receivers: Annotated[list[Id], Field(min_length=1)]
    processors: list[Id]
    exporters: Annotated[list[Id], Field(min_length=1)]


class Pipelines(Shape):
    metrics: Pipeline


class Service(Shape):
    extensions: list[Id]
    telemetry: Telemetry
    pipelines: Pipelines


class Document(Shape):
    """A configuration whose pipeline uses exactly the components that it has."""

    extensions: Extensions
    receivers: Receivers
    processors: Processors
    exporters: Exporters
    service: Service


def checked(document: dict[str, Any]) -> Document:
    """The document, if it has the shape and its service uses exactly the components that are configured."""
    pipeline = document["service"]["pipelines"]["metrics"]
    for kind in ("receivers", "processors", "exporters"):
        assert sorted(pipeline[kind]) == sorted(document[kind]), kind
    assert sorted(document["service"]["extensions"]) == sorted(document["extensions"])
    return Document.model_validate(document)
