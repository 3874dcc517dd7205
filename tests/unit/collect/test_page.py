from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from icosfl.collect.page import Health, HostPage, PageServer, prometheus_name
from icosfl.collect.points import Batch, Kind, Point
from icosfl.collect.push import PushCounts
from icosfl.config import Endpoint
from icosfl.errors import RunFailed

HEALTH = Health(
    samples=5,
    failures=1,
    missed=2,
    last_monotonic=0.0,
    push=PushCounts(stored=3, failed=4, refused=1, dropped=6, rejected_points=7, backlog=8),
)
POWER = (
    Point("hw.host.power", "W", Kind.GAUGE, 12.5, 1, (("simulated", "true"),)),
    Point("hw.host.energy", "J", Kind.COUNTER, 30.0, 1, (("simulated", "true"),)),
)
HOST = (
    Point("system.cpu.utilization", "1", Kind.GAUGE, 0.25, 1),
    Point("system.cpu.load_average.1m", "{thread}", Kind.GAUGE, 0.5, 1),
    Point("system.memory.usage", "By", Kind.SUM, 3000, 1, (("system.memory.state", "used"),)),
    Point("system.memory.usage", "By", Kind.SUM, 2000, 1, (("system.memory.state", "free"),)),
    Point("system.memory.limit", "By", Kind.SUM, 8000, 1),
    Point("system.memory.linux.available", "By", Kind.SUM, 5000, 1),
)


def fresh() -> Health:
    return replace(HEALTH, last_monotonic=time.monotonic())


@contextmanager
def page(batch: Batch | None, health: Callable[[], Health] = fresh) -> Iterator[httpx.Client]:
    server = PageServer(Endpoint("127.0.0.1", 0), HostPage(lambda: batch, health), health, 10.0)
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        yield client
    server.close()


def samples(text: str) -> dict[tuple, float]:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_page_has_the_points_in_prometheus_form() -> None:
    with page(Batch(1, HOST + POWER)) as client:
        values = samples(client.get("/metrics").text)

    assert values[("system_cpu_utilization_ratio",)] == 0.25
    assert values[("system_cpu_load_average_1m",)] == 0.5
    assert values[("system_memory_usage_bytes", ("system_memory_state", "used"))] == 3000
    assert values[("hw_host_power_watts", ("simulated", "true"))] == 12.5
    assert values[("hw_host_energy_joules_total", ("simulated", "true"))] == 30


def test_the_page_has_the_same_values_under_scaphandres_names() -> None:
    with page(Batch(1, HOST + POWER)) as client:
        text = client.get("/metrics").text
    values = samples(text)

    assert values[("scaph_host_load_avg_one",)] == 0.5
    assert values[("scaph_host_memory_total_bytes",)] == 8000
    assert values[("scaph_host_memory_available_bytes",)] == 5000
    assert values[("scaph_host_memory_free_bytes",)] == 2000
    assert values[("scaph_host_power_microwatts", ("simulated", "true"))] == 12.5e6
    assert 'scaph_host_energy_microjoules{simulated="true"} 3e+07' in text


def test_a_page_without_power_has_no_power_under_any_name() -> None:
    with page(Batch(1, HOST)) as client:
        text = client.get("/metrics").text

    assert not [line for line in text.splitlines() if "power" in line or "energy" in line]


def test_the_page_offers_every_metric_that_the_bridge_takes_from_scaphandre() -> None:
    facts = yaml.safe_load((Path(__file__).parents[3] / "group_vars/all/metrics.yml").read_text(encoding="utf-8"))
    rule = next(rule for rule in facts["icosfl_bridge_rules"] if rule["name"] == "scaphandre")
    with page(Batch(1, HOST + POWER)) as client:
        names = {key[0] for key in samples(client.get("/metrics").text)}

    wanted = {source[key] for source in rule["sources"] for key in ("metric", "minus") if key in source}
    assert {name for name in wanted if name.startswith("scaph_")} <= names


def test_the_page_has_only_the_services_own_series_before_the_first_sample() -> None:
    with page(None) as client:
        names = {key[0] for key in samples(client.get("/metrics").text)}

    assert names
    assert all(name.startswith("icosfl_collect_") for name in names)


def test_the_page_counts_samples_pushes_and_losses() -> None:
    with page(None) as client:
        values = samples(client.get("/metrics").text)

    assert values == {
        ("icosfl_collect_samples_total",): 5,
        ("icosfl_collect_failures_total",): 1,
        ("icosfl_collect_missed_periods_total",): 2,
        ("icosfl_collect_dropped_batches_total",): 6,
        ("icosfl_collect_rejected_points_total",): 7,
        ("icosfl_collect_pushes_total", ("result", "stored")): 3,
        ("icosfl_collect_pushes_total", ("result", "failed")): 4,
        ("icosfl_collect_pushes_total", ("result", "refused")): 1,
        ("icosfl_collect_backlog_batches",): 8,
    }


def test_the_page_is_open_metrics_for_whom_asks_for_it() -> None:
    with page(Batch(1, HOST + POWER)) as client:
        answer = client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})

    names = {sample.name for family in parse_openmetrics(answer.text) for sample in family.samples}
    assert {"hw_host_energy_joules_total", "scaph_host_energy_microjoules"} <= names


def test_scraped_points_keep_their_names_on_the_page() -> None:
    points = (
        Point("node_load1", "", Kind.GAUGE, 0.5, 1),
        Point("node_forks_total", "", Kind.COUNTER, 7, 1),
        Point("odd_counter", "", Kind.COUNTER, 8, 1),
        Point("odd_gauge_total", "", Kind.GAUGE, 9, 1),
        Point("icosfl_collect_samples_total", "", Kind.COUNTER, 99, 1),
    )
    with page(Batch(1, points)) as client:
        values = samples(client.get("/metrics").text)

    assert {key[0]: value for key, value in values.items() if key[0].startswith(("node", "odd"))} == {
        "node_load1": 0.5,
        "node_forks_total": 7,
        "odd_counter": 8,
        "odd_gauge_total": 9,
    }
    assert values[("icosfl_collect_samples_total",)] == 5


def test_names_take_units_only_where_there_is_one() -> None:
    def name(name: str, unit: str, kind: Kind = Kind.GAUGE) -> str:
        return prometheus_name(Point(name, unit, kind, 1.0, 1))

    assert name("a.b-c", "s") == "a_b_c_seconds"
    assert name("a.b", "1", Kind.COUNTER) == "a_b_total"
    assert name("a.b", "{thread}") == "a_b"


def test_healthz_is_ok_while_the_loop_turns() -> None:
    with page(None) as client:
        answer = client.get("/healthz")

    assert answer.status_code == 200
    assert answer.json()["ok"] is True


def test_healthz_fails_when_the_loop_stands_still() -> None:
    with page(None, lambda: replace(HEALTH, last_monotonic=time.monotonic() - 60)) as client:
        answer = client.get("/healthz")

    assert answer.status_code == 503
    assert answer.json()["ok"] is False


def test_another_path_is_not_found() -> None:
    with page(None) as client:
        assert client.get("/other").status_code == 404


def test_a_busy_port_is_an_error_that_names_it() -> None:
    with page(None) as client:
        taken = Endpoint("127.0.0.1", client.base_url.port)

        with pytest.raises(RunFailed, match=rf"cannot listen on 127\.0\.0\.1:{taken.port}"):
            PageServer(taken, HostPage(lambda: None, fresh), fresh, 10.0)
