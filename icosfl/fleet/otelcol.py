"""The configuration of an OpenTelemetry Collector (contrib) between a host's metrics and the bridge: a plain function.

    what measures the host -> memory_limiter -> resource -> … -> batch -> queue on disk -> bridge

What measures is either icosfl.collect, which pushes whole samples, or an exporter's page beside the processors' times
of the host itself. The two are read at different moments and may reach the bridge in two requests: their times are cut
to the grid of periods, so that the store puts them in one row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icosfl.fleet.topology import address_of

CPU = "system.cpu.utilization"

# One request a period is queued; the rest is for what a restart or a pause in the clock adds.
_SPARE = 1.2
_BATCH_POINTS = 8192
_OF_THE_METER = "^scaph_(host|socket|domain)_(power|energy)"
_STORAGE = "file_storage/queue"
_EXPORTER = "otlp/bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Otelcol:
    """What the configuration is made of.

    Args:
        host: The node's name, in the resource attribute host.name.
        service_name: The resource attribute service.name, by which the bridge's rules tell the sender.
        listen: The address at which icosfl.collect finds it.
        otlp_port: The port there.
        http_port: The port of its health page.
        metrics_port: The port of its own metrics.
        bridge_host: The address of the bridge.
        bridge_port: The port of the bridge.
        scrape_host: The address of an exporter whose page is read; "" where icosfl.collect pushes.
        scrape_port: The port of that exporter.
        sources: What the bridge's rule asks for of an exporter's page: each a `metric`, maybe a `minus`.
        simulated: Whether the exporter's meter is a simulation.
        period_seconds: The time between two rows.
        queue_dir: The directory of the queue.
        outage_seconds: How long the bridge may be away without a loss.
        memory_mib: The most memory that it takes.
        log_level: debug, info, warn or error.
    """

    host: str
    service_name: str
    listen: str
    otlp_port: int
    http_port: int
    metrics_port: int
    bridge_host: str
    bridge_port: int
    scrape_host: str
    scrape_port: int
    sources: Sequence[Mapping[str, Any]]
    simulated: bool
    period_seconds: float
    queue_dir: str
    outage_seconds: float
    memory_mib: int
    log_level: str


def queue_size(outage_seconds: float, period_seconds: float) -> int:
    """How many requests the queue holds: one a period for as long as the bridge may be away, and a fifth more."""
    return math.ceil(_SPARE * outage_seconds / period_seconds)


def document(plan: Otelcol) -> dict[str, Any]:
    """Return the configuration as the collector's YAML has it."""
    receivers = _scraping(plan) if plan.scrape_host else _listening(plan)
    processors = {
        # The first of all: when memory runs out, senders are told to come again before anything is done.
        "memory_limiter": {
            "check_interval": "1s",
            "limit_mib": plan.memory_mib,
            "spike_limit_mib": plan.memory_mib // 5,
        },
        "resource": {"attributes": _resource(plan)},
        **(_made_alike(plan) if plan.scrape_host else {}),
        "batch": {"timeout": duration(plan.period_seconds), "send_batch_size": _BATCH_POINTS},
    }
    return {
        "extensions": {
            "health_check": {"endpoint": address_of(plan.listen, plan.http_port)},
            _STORAGE: {
                "directory": plan.queue_dir,
                "create_directory": False,
                "timeout": "10s",
                "fsync": True,
                "compaction": {
                    "on_start": True,
                    "on_rebound": True,
                    "cleanup_on_start": True,
                    "directory": plan.queue_dir,
                },
            },
        },
        "receivers": receivers,
        "processors": processors,
        "exporters": {_EXPORTER: _bridge(plan)},
        "service": {
            "extensions": ["health_check", _STORAGE],
            "telemetry": {
                "logs": {"level": plan.log_level},
                "metrics": {
                    "level": "normal",
                    "readers": [
                        {"pull": {"exporter": {"prometheus": {"host": plan.listen, "port": plan.metrics_port}}}}
                    ],
                },
            },
            "pipelines": {
                "metrics": {
                    "receivers": list(receivers),
                    "processors": list(processors),
                    "exporters": [_EXPORTER],
                }
            },
        },
    }


def _listening(plan: Otelcol) -> dict[str, Any]:
    return {"otlp": {"protocols": {"grpc": {"endpoint": address_of(plan.listen, plan.otlp_port)}}}}


def _scraping(plan: Otelcol) -> dict[str, Any]:
    period = duration(plan.period_seconds)
    # Names and no patterns: the series of processes (thousands, of Scaphandre) and the exporter's own are left out.
    wanted = {"source_labels": ["__name__"], "regex": "|".join(_of_exporter(plan)), "action": "keep"}
    job = {
        "job_name": plan.service_name,
        "scrape_interval": period,
        "scrape_timeout": period,
        "honor_timestamps": False,
        "static_configs": [{"targets": [address_of(plan.scrape_host, plan.scrape_port)]}],
        "metric_relabel_configs": [wanted],
    }
    times = {CPU: {"enabled": True}, "system.cpu.time": {"enabled": False}}
    return {
        "prometheus": {"config": {"scrape_configs": [job]}},
        "hostmetrics": {"collection_interval": period, "scrapers": {"cpu": {"metrics": times}}},
    }


def _resource(plan: Otelcol) -> list[dict[str, str]]:
    named = {"service.name": plan.service_name, "host.name": plan.host}
    return [{"key": key, "value": _literal(value), "action": "upsert"} for key, value in named.items()]


def _made_alike(plan: Otelcol) -> dict[str, Any]:
    """What makes two receivers' points one sample: without the receivers' own, one number a host, one time a period."""
    names = " or ".join(f'metric.name == "{name}"' for name in (*_of_exporter(plan), CPU))
    idle = " or ".join(f'datapoint.attributes["state"] == "{state}"' for state in ("idle", "wait"))
    a_cpu = f'metric.name == "{CPU}"'
    moment = f'set(datapoint.time, TruncateTime(datapoint.time, Duration("{duration(plan.period_seconds)}")))'
    statements = [
        # As icosfl.collect counts: the share of the processors' time that was neither idle nor waiting for a disk.
        ("datapoint", [f"set(datapoint.value_double, 0.0) where {a_cpu} and ({idle})", moment, *_label(plan)]),
        (
            "metric",
            [
                f'aggregate_on_attributes("mean", ["state"]) where {a_cpu}',
                f'aggregate_on_attributes("sum", []) where {a_cpu}',
            ],
        ),
    ]
    return {
        "filter/asked": {"error_mode": "ignore", "metrics": {"metric": [f"not ({names})"]}},
        "transform/sample": {
            "error_mode": "ignore",
            "metric_statements": [{"context": context, "statements": each} for context, each in statements],
        },
    }


def _label(plan: Otelcol) -> list[str]:
    label = 'set(datapoint.attributes["simulated"], "true")'
    return [f'{label} where IsMatch(metric.name, "{_OF_THE_METER}")'] if plan.simulated else []


def _of_exporter(plan: Otelcol) -> list[str]:
    named = {str(source[key]) for source in plan.sources for key in ("metric", "minus") if source.get(key)}
    return sorted(named - {CPU})


def _bridge(plan: Otelcol) -> dict[str, Any]:
    return {
        "endpoint": address_of(plan.bridge_host, plan.bridge_port),
        "tls": {"insecure": True},  # it never leaves the host: the role refuses other addresses
        "compression": "none",
        "timeout": "10s",
        "retry_on_failure": {
            "enabled": True,
            "initial_interval": "1s",
            "max_interval": "10s",
            "max_elapsed_time": "0s",
        },
        "sending_queue": {
            "enabled": True,
            "num_consumers": 1,  # one after another, in the order of time
            "sizer": "requests",
            "queue_size": queue_size(plan.outage_seconds, plan.period_seconds),
            "storage": _STORAGE,
        },
    }


def duration(seconds: float) -> str:
    """Return a time as the collector and Prometheus both write it, to a thousandth of a second."""
    return f"{round(seconds)}s" if float(seconds).is_integer() else f"{round(seconds * 1000)}ms"


def _literal(text: str) -> str:
    """The collector takes $ for a variable."""
    return text.replace("$", "$$")
