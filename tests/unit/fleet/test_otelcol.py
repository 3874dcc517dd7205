from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from pydantic import ValidationError

from icosfl.bridge.batch import Reader
from icosfl.bridge.rules import compile_rules
from icosfl.fleet.otelcol import CPU, Otelcol, document, duration, queue_size
from icosfl.store.memory import MemoryStore
from support.bridge_service import FACTS, RULES, SCHEMA
from support.otelcol_shape import checked

SECOND = 10**9
PERIOD_SECONDS = FACTS["icosfl_sampling_period_seconds"]
SCAPHANDRE = next(rule for rule in FACTS["icosfl_bridge_rules"] if rule["name"] == "scaphandre")
README = (Path(__file__).parents[3] / "roles/otel_collector/README.md").read_text(encoding="utf-8")


def plan(**more: Any) -> Otelcol:
    """A plan for what icosfl.collect pushes, by the facts of the fleet."""
    return Otelcol(
        **{
            "host": "edge-01",
            "service_name": "icosfl-host-metrics",
            "listen": "127.0.0.1",
            "otlp_port": 4319,
            "http_port": 13133,
            "metrics_port": 8888,
            "bridge_host": "127.0.0.1",
            "bridge_port": 4317,
            "scrape_host": "",
            "scrape_port": 9100,
            "sources": (),
            "simulated": False,
            "period_seconds": PERIOD_SECONDS,
            "queue_dir": "/srv/data/otel_collector",
            "outage_seconds": FACTS["icosfl_collector_outage_seconds"],
            "memory_mib": 192,
            "log_level": "warn",
            **more,
        }
    )


def scraping(**more: Any) -> Otelcol:
    """A plan for Scaphandre's page."""
    return plan(scrape_host="127.0.0.1", service_name="scaphandre", sources=SCAPHANDRE["sources"], **more)


BOTH = pytest.mark.parametrize("made", [plan, scraping], ids=["pushed", "scraped"])


@BOTH
def test_the_configuration_has_the_documented_shape_and_survives_yaml(made) -> None:
    text = yaml.safe_dump(document(made()), sort_keys=False)

    checked(yaml.safe_load(text))


def test_the_shape_refuses_what_the_collector_refuses() -> None:
    sound = document(scraping())
    misspelt, elsewhere, unused = (copy.deepcopy(sound) for _ in range(3))
    misspelt["exporters"]["otlp/bridge"]["sending_queue"]["queue_sise"] = 1
    elsewhere["receivers"]["prometheus"]["config"]["scrape_configs"][0]["scrape_interval"] = 3
    unused["service"]["pipelines"]["metrics"]["receivers"].remove("hostmetrics")

    for wrong in (misspelt, elsewhere):
        with pytest.raises(ValidationError):
            checked(wrong)
    with pytest.raises(AssertionError, match="receivers"):
        checked(unused)


@BOTH
def test_memory_is_limited_before_anything_else_and_batches_are_made_last(made) -> None:
    processors = checked(document(made())).service.pipelines.metrics.processors

    assert processors[0] == "memory_limiter"
    assert processors[-1] == "batch"


def test_a_sample_is_sorted_out_before_it_is_reckoned_with() -> None:
    assert checked(document(scraping())).service.pipelines.metrics.processors == [
        "memory_limiter",
        "resource",
        "filter/asked",
        "transform/sample",
        "batch",
    ]


@BOTH
def test_one_path_feeds_the_bridge_which_is_asked_for_ever(made) -> None:
    shape = checked(document(made()))
    pipeline, bridge = shape.service.pipelines.metrics, shape.exporters.bridge

    assert pipeline.exporters == ["otlp/bridge"]
    assert pipeline.receivers == (["otlp"] if made is plan else ["prometheus", "hostmetrics"])
    assert bridge.endpoint == "127.0.0.1:4317"
    assert bridge.retry_on_failure.enabled
    assert bridge.retry_on_failure.max_elapsed_time == "0s"


@BOTH
def test_the_queue_lies_on_disk_and_holds_an_outage(made) -> None:
    shape = checked(document(made()))
    queue, batch = shape.exporters.bridge.sending_queue, shape.processors.batch

    assert queue.storage == "file_storage/queue"
    assert shape.extensions.file_storage.directory == "/srv/data/otel_collector"
    assert shape.extensions.file_storage.fsync
    assert queue.sizer == "requests"
    # One batch a period is queued, for nothing but its time makes one before.
    assert batch.timeout == f"{PERIOD_SECONDS}s"
    assert queue.queue_size * PERIOD_SECONDS >= 1.2 * 7200


def test_the_size_of_the_queue_is_the_formula_of_the_readme() -> None:
    assert "`1.2 * outage_seconds / period_seconds` requests" in README
    (said,) = re.findall(r"(\d+) for two hours at 3 s", README)

    assert queue_size(7200, 3) == int(said)


@given(st.floats(1, 1e6), st.floats(0.1, 600))
def test_the_queue_holds_one_request_for_each_period_of_an_outage(outage: float, period: float) -> None:
    assert queue_size(outage, period) * period >= outage


def test_pages_are_read_and_processors_measured_once_a_period() -> None:
    receivers = checked(document(scraping(period_seconds=2.5))).receivers
    assert receivers.prometheus is not None
    assert receivers.hostmetrics is not None
    (job,) = receivers.prometheus.config.scrape_configs

    assert job.scrape_interval == job.scrape_timeout == receivers.hostmetrics.collection_interval == "2500ms"
    assert job.static_configs[0].targets == ["127.0.0.1:9100"]
    assert receivers.hostmetrics.scrapers.cpu.metrics.utilization.enabled


def test_of_an_exporters_page_only_what_the_bridge_asks_for_gets_in() -> None:
    receivers = checked(document(scraping())).receivers
    assert receivers.prometheus is not None
    (job,) = receivers.prometheus.config.scrape_configs
    (kept,) = job.metric_relabel_configs

    assert (kept.source_labels, kept.action) == (["__name__"], "keep")
    for name in ("scaph_host_power_microwatts", "scaph_host_memory_total_bytes", "scaph_host_memory_available_bytes"):
        assert re.fullmatch(kept.regex, name)
    for name in ("scaph_process_power_consumption_microwatts", "scaph_self_memory_bytes", CPU, "up"):
        assert not re.fullmatch(kept.regex, name)


def test_the_bridge_knows_the_sender_and_its_host() -> None:
    resource = checked(document(scraping(host="a$b"))).processors.resource.attributes

    found = {each.key: (each.value, each.action) for each in resource}
    assert found == {"service.name": ("scaphandre", "upsert"), "host.name": ("a$$b", "upsert")}  # $ begins a variable
    assert found["service.name"][0] == SCAPHANDRE["match"]["service.name"]


def test_power_of_a_simulated_meter_says_so() -> None:
    def labelled(made: Otelcol) -> bool:
        return 'set(datapoint.attributes["simulated"], "true")' in str(document(made))

    assert labelled(scraping(simulated=True))
    assert not labelled(scraping())


def test_its_pages_are_its_own_address() -> None:
    shape = checked(document(plan(listen="otel-collector", bridge_host="::1")))

    assert shape.extensions.health_check.endpoint == "otel-collector:13133"
    assert shape.service.telemetry.metrics.readers[0].pull.exporter.prometheus.host == "otel-collector"
    assert shape.receivers.otlp is not None
    assert shape.receivers.otlp.protocols.grpc.endpoint == "otel-collector:4319"
    assert shape.exporters.bridge.endpoint == "[::1]:4317"


@pytest.mark.parametrize(("seconds", "said"), [(3, "3s"), (2.5, "2500ms"), (1.0, "1s"), (0.2, "200ms")])
def test_times_are_written_without_fractions(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def request(when: int, **metrics: float) -> bytes:
    """What the collector makes of one receiver: all points at the time that they were cut to."""
    attributes = [{"key": "service.name", "value": {"stringValue": "scaphandre"}}]
    given = [
        {"name": name.replace("__", "."), "gauge": {"dataPoints": [{"timeUnixNano": when, "asDouble": value}]}}
        for name, value in metrics.items()
    ]
    groups = [{"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": given}]}]
    return ParseDict({"resourceMetrics": groups}, ExportMetricsServiceRequest()).SerializeToString()


def test_both_halves_of_a_sample_make_one_row_whether_they_come_together_or_apart() -> None:
    """As otelcol sends them before Scaphandre: the page and the processors, cut to the same time."""
    reader = Reader(compile_rules(RULES, SCHEMA), len(SCHEMA), PERIOD_SECONDS * SECOND // 2, 60 * SECOND)
    page = {
        "scaph_host_memory_total_bytes": 3.0 * 2**20,
        "scaph_host_memory_available_bytes": 2.0**20,
        "scaph_host_load_avg_one": 0.5,
        "scaph_host_power_microwatts": 7e6,
    }
    cpu = {"system__cpu__utilization": 0.25}
    apart, later = MemoryStore(SCHEMA, 10), PERIOD_SECONDS * SECOND
    for when in (0, later):
        for half in (page, cpu):
            apart.append(reader.read(request(SECOND + when, **half), 10 * SECOND).rows)
    together = MemoryStore(SCHEMA, 10)
    for when in (0, later):
        together.append(reader.read(request(SECOND + when, **page, **cpu), 10 * SECOND).rows)

    for store in (apart, together):
        rows = store.window().rows
        assert rows.times.tolist() == [SECOND, SECOND + later]
        np.testing.assert_array_equal(rows.values, [[25.0, 2.0, 0.5, 7.0]] * 2)
