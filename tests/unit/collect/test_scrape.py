from __future__ import annotations

import re

import pytest

from icosfl.collect.points import Kind
from icosfl.collect.scrape import Scraper, compile_keep, parse_page
from icosfl.errors import ConfigError, Unavailable

PAGE = """\
# HELP scaph_host_power_microwatts Power of the host
# TYPE scaph_host_power_microwatts gauge
scaph_host_power_microwatts 25382361
# HELP scaph_host_energy_microjoules Energy
# TYPE scaph_host_energy_microjoules counter
scaph_host_energy_microjoules 123456789
# TYPE scaph_process_power_consumption_microwatts gauge
scaph_process_power_consumption_microwatts{pid="1",cmdline="init"} 4
# TYPE node_forks_total counter
node_forks_total 17
node_cpu_seconds_total{cpu="0",mode="idle"} 1.5
# TYPE node_temperature gauge
node_temperature{sensor="a"} NaN
node_temperature{sensor="b"} +Inf
node_temperature{sensor="c"} 40 1700000000000
# TYPE request_seconds histogram
request_seconds_bucket{le="1"} 3
request_seconds_bucket{le="+Inf"} 4
request_seconds_sum 2.5
request_seconds_count 4
# TYPE gc_seconds summary
gc_seconds{quantile="0.5"} 0.1
gc_seconds_sum 7
gc_seconds_count 9
"""


def parse(text: str, keep: str = ".*"):
    return parse_page(text, re.compile(keep), 42)


def points(text: str, keep: str = ".*") -> dict[tuple, tuple]:
    page = parse(text, keep)
    return {(point.name, *point.attributes): (point.kind, point.value) for point in page.points}


def test_points_keep_the_names_and_labels_of_the_page() -> None:
    found = points(PAGE)

    assert found[("scaph_host_power_microwatts",)] == (Kind.GAUGE, 25382361)
    assert found[("scaph_process_power_consumption_microwatts", ("cmdline", "init"), ("pid", "1"))] == (Kind.GAUGE, 4)
    assert found[("node_forks_total",)] == (Kind.COUNTER, 17)


def test_a_counter_without_total_in_its_name_keeps_its_name() -> None:
    assert points(PAGE)[("scaph_host_energy_microjoules",)] == (Kind.COUNTER, 123456789)


def test_a_sample_without_a_type_is_a_gauge() -> None:
    assert points(PAGE)[("node_cpu_seconds_total", ("cpu", "0"), ("mode", "idle"))] == (Kind.GAUGE, 1.5)


def test_samples_without_a_finite_value_are_left_out_and_counted() -> None:
    page = parse(PAGE, "node_temperature")

    assert [(point.attributes, point.value) for point in page.points] == [((("sensor", "c"),), 40)]
    assert page.not_finite == 2


def test_all_points_carry_the_time_of_the_scrape() -> None:
    assert {point.time_ns for point in parse(PAGE).points} == {42}


def test_parts_of_histograms_and_summaries_are_points_of_their_own() -> None:
    found = points(PAGE, "request_|gc_")

    assert found[("request_seconds_bucket", ("le", "1"))] == (Kind.COUNTER, 3)
    assert found[("request_seconds_sum",)] == (Kind.COUNTER, 2.5)
    assert found[("gc_seconds", ("quantile", "0.5"))] == (Kind.GAUGE, 0.1)
    assert found[("gc_seconds_count",)] == (Kind.COUNTER, 9)


def test_lines_that_are_not_kept_are_never_parsed() -> None:
    broken = PAGE + "this is { no sample\n"

    assert set(points(broken, "scaph_host_")) == {("scaph_host_power_microwatts",), ("scaph_host_energy_microjoules",)}


def test_a_kept_sample_keeps_its_type_when_the_expression_matches_labels() -> None:
    text = '# TYPE node_cpu_seconds_total counter\nnode_cpu_seconds_total{cpu="0",mode="idle"} 1.5\n'

    assert points(text, r'node_cpu_seconds_total\{.*mode="idle"') == {
        ("node_cpu_seconds_total", ("cpu", "0"), ("mode", "idle")): (Kind.COUNTER, 1.5)
    }


def test_the_expression_is_matched_from_the_start_of_a_line() -> None:
    assert points(PAGE, "host_") == {}


def test_a_wrong_expression_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="scrape_keep"):
        compile_keep("(")


@pytest.fixture
def scraper(site):
    scraper = Scraper(site.url, compile_keep(""), 10.0, wall_ns=lambda: 42)
    yield scraper
    scraper.close()


def test_a_page_is_scraped_over_http(site, scraper) -> None:
    site.body = PAGE.encode()

    batch = scraper.collect()

    assert batch.time_ns == 42
    assert batch.points == parse(PAGE).points


def test_a_page_that_answers_with_an_error_is_unavailable_until_it_answers_well(site, scraper) -> None:
    site.status = 500
    with pytest.raises(Unavailable, match="500"):
        scraper.collect()

    site.status, site.body = 200, b"node_load1 1\n"
    assert [point.name for point in scraper.collect().points] == ["node_load1"]


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>\n", b"name{ 3\n", b"\xff\xfe\n", b"a notanumber\n", b'a{b="c", ="f"} 1\n']
)
def test_a_page_that_is_no_metrics_page_is_unavailable_with_the_reason(site, scraper, body) -> None:
    site.body = body

    with pytest.raises(Unavailable, match="no Prometheus page"):
        scraper.collect()


def test_a_page_longer_than_the_limit_is_not_read_to_its_end(site, scraper, monkeypatch) -> None:
    monkeypatch.setattr("icosfl.collect.scrape._MAX_BYTES", 100)
    site.body = b"a 1\n" * 100

    with pytest.raises(Unavailable, match="longer than 100 bytes"):
        scraper.collect()


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/metrics", "127.0.0.1:{port}", "http://[", "ftp://127.0.0.1/"])
def test_a_target_that_is_not_there_is_unavailable_and_named(nobody, url) -> None:
    scraper = Scraper(url.format(port=nobody.port), compile_keep(""), 10.0)

    with pytest.raises(Unavailable, match="cannot be scraped"):
        scraper.collect()
    scraper.close()
