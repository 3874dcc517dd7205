from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import pytest
import tomli_w

from icosfl.collect import service as module
from icosfl.collect.service import CollectService, Turn, next_turn
from icosfl.config import CollectConfig, Endpoint
from icosfl.errors import ConfigError, RunFailed


@pytest.fixture
def config(bridge, tmp_path) -> CollectConfig:
    return CollectConfig(
        host="h1",
        service_name="icosfl-host-metrics",
        listen=Endpoint("127.0.0.1", 0),
        period_seconds=0.05,
        source="embedded",
        scrape_url="",
        scrape_keep="",
        powercap_root=str(tmp_path / "powercap"),
        powercap_simulated=False,
        push_to=bridge,
        push_timeout_seconds=10.0,
        backlog_batches=10,
        log_level="info",
    )


def turns(count: int) -> Callable[[float], bool]:
    """Lets the service sample `count` times without waiting."""
    left = iter([False] * count)
    return lambda seconds: next(left, True)


def page(service: CollectService) -> str:
    with httpx.Client(trust_env=False) as client:
        return client.get(f"http://127.0.0.1:{service.port}/metrics").text


def names(recorder) -> list[set[str]]:
    return [
        {metric.name for metric in request.resource_metrics[0].scope_metrics[0].metrics}
        for request in recorder.requests
    ]


def test_each_sample_is_pushed_as_one_request_and_shown_on_the_page(config, recorder) -> None:
    with CollectService(config) as service:
        service.run(turns(3))
        text = page(service)

    assert "icosfl_collect_samples_total 3.0" in text
    assert "scaph_host_memory_total_bytes" in text
    assert len(names(recorder)) == 3
    assert all({"system.memory.usage", "system.cpu.load_average.1m"} <= sent for sent in names(recorder))
    assert len(set(recorder.times())) == 3


def test_without_a_place_to_push_to_the_page_is_all_that_it_shows(config, recorder) -> None:
    with CollectService(replace(config, push_to=None)) as service:
        service.run(turns(3))
        text = page(service)

    assert "icosfl_collect_samples_total 3.0" in text
    assert "icosfl_collect_backlog_batches 0.0" in text
    assert not recorder.requests


def test_leaving_hands_over_what_waits(config, recorder) -> None:
    recorder.hold = None
    with CollectService(config) as service:
        service.run(turns(10))

    assert len(recorder.requests) == 10


def test_a_bridge_that_is_away_does_not_stop_the_samples_and_leaves_a_backlog(config, nobody, caplog) -> None:
    with CollectService(replace(config, push_to=nobody, backlog_batches=2)) as service:
        service.run(turns(5))
        assert service.health().samples == 5

    assert "2 samples could not be handed to the bridge" in caplog.text


def test_another_exporter_can_be_scraped_instead(config, recorder, site, wait_until) -> None:
    site.body = b"# TYPE node_load1 gauge\nnode_load1 0.5\nnode_other 3\n"

    with CollectService(replace(config, source="scrape", scrape_url=site.url, scrape_keep="node_load1")) as service:
        service.run(turns(1))
        text = page(service)
        wait_until(lambda: recorder.requests)  # the end waits only a moment for the bridge

    assert names(recorder) == [{"node_load1"}]
    assert "node_load1 0.5" in text


def test_a_page_that_is_scraped_is_completed_in_the_same_request(config, recorder, site, wait_until) -> None:
    site.body = b"# TYPE node_load1 gauge\nnode_load1 0.5\n"

    with CollectService(replace(config, source="both", scrape_url=site.url)) as service:
        service.run(turns(1))
        wait_until(lambda: recorder.requests)

    (sent,) = names(recorder)
    assert {"node_load1", "system.memory.usage"} <= sent
    assert "system.cpu.load_average.1m" not in sent
    assert len(set(recorder.times())) == 1


def test_a_dead_target_is_logged_once_counted_and_survived(config, recorder, site, caplog) -> None:
    site.status = 500
    with CollectService(replace(config, source="scrape", scrape_url=site.url)) as service:
        service.run(turns(3))
        assert service.health().failures == 3
        site.status, site.body = 200, b"node_load1 1\n"
        service.run(turns(1))
        assert service.health().samples == 1

    assert names(recorder) == [{"node_load1"}]
    assert caplog.text.count("no sample:") == 1


def test_the_page_shows_no_old_values_of_a_target_that_died(config, site) -> None:
    site.body = b"node_load1 1\n"
    with CollectService(replace(config, source="scrape", scrape_url=site.url)) as service:
        service.run(turns(1))
        assert "node_load1 1.0" in page(service)
        site.status = 500
        service.run(turns(1))
        assert "node_load1" not in page(service)


@pytest.mark.parametrize("source", ["scrape", "both"])
def test_scraping_without_an_address_is_a_configuration_error(config, source) -> None:
    with pytest.raises(ConfigError, match="scrape_url"):
        CollectService(replace(config, source=source))


def test_a_push_that_ended_unexpectedly_ends_the_service(config, monkeypatch) -> None:
    with CollectService(config) as service:
        monkeypatch.setattr(service._pusher._thread, "is_alive", lambda: False)
        with pytest.raises(RunFailed, match="push to the bridge ended"):
            service.run(turns(3))


def test_turns_stay_on_the_grid_of_periods() -> None:
    assert next_turn(100.0, 100.5, 3.0) == Turn(103.0, 0)
    assert next_turn(103.0, 105.999, 3.0) == Turn(106.0, 0)


def test_a_sample_that_took_longer_than_a_period_leaves_turns_out_and_counts_them() -> None:
    assert next_turn(100.0, 107.0, 3.0) == Turn(109.0, 2)


def test_waits_make_up_for_the_time_that_samples_take(config, monkeypatch) -> None:
    now = 100.0
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        nonlocal now
        waits.append(seconds)
        now += seconds + 0.02  # woken late, and the sample takes a while
        return len(waits) > 4

    with CollectService(config) as service:
        monkeypatch.setattr(module.time, "monotonic", lambda: now)
        service.run(wait)
        monkeypatch.undo()

    assert waits == pytest.approx([0.0, 0.03, 0.03, 0.03, 0.03])


def toml_of(config: CollectConfig, path: Path) -> Path:
    path.write_text(tomli_w.dumps(asdict(config)), encoding="utf-8")
    return path


def start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "icosfl.collect", "--config", str(path)], stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_the_program_samples_until_a_signal_and_leaves_with_0(config, recorder, tmp_path, wait_until, asked) -> None:
    process = start(toml_of(config, tmp_path / "collect.toml"))
    try:
        wait_until(lambda: len(recorder.requests) >= 2 or process.poll() is not None)
        process.send_signal(asked)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == 0, errors
    assert len(recorder.requests) >= 2
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"period_seconds": 0.0}, 3, "period_seconds"),
        ({"source": "scrape", "scrape_url": "http://127.0.0.1/", "scrape_keep": "("}, 3, "scrape_keep"),
    ],
)
def test_the_program_ends_with_one_line_for_a_wrong_configuration(config, tmp_path, change, code, words) -> None:
    path = toml_of(config, tmp_path / "collect.toml")
    path.write_text(tomli_w.dumps({**asdict(config), **change}), encoding="utf-8")

    process = start(path)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == code
    assert words in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_program_ends_with_one_line_for_a_busy_port(config, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Endpoint("127.0.0.1", taken.getsockname()[1])
        process = start(toml_of(replace(config, listen=listen), tmp_path / "collect.toml"))
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 30
    assert f"cannot listen on {listen}" in errors
    assert len(errors.strip().splitlines()) == 1
