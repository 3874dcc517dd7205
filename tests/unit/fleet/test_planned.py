from __future__ import annotations

from pathlib import Path

import pytest

from icosfl.errors import ConfigError
from icosfl.fleet.planned import planned_services, read_plan

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    write(
        "playbooks/site.yml",
        "- {hosts: nodes, roles: [{role: base}, redis]}\n"
        "- {hosts: nodes, roles: [{role: bridge}, {role: exporter, when: chosen}]}\n"
        "- {hosts: controller, roles: [{role: link}]}\n- {hosts: all, tasks: []}\n",
    )
    write("roles/redis/vars/main.yml", "__redis_services: [{name: redis, ports: {a: '{{ b }}'}}]\n")
    write("roles/bridge/vars/main.yml", "__bridge_services: [{name: bridge}]\n")
    write("roles/exporter/vars/main.yml", "__exporter_services: [{name: exporter}]\n")
    write("roles/link/vars/main.yml", "__link_services: [{name: link}, {name: executor}]\n")
    return tmp_path


def test_a_host_is_meant_to_have_what_its_groups_get_in_the_order_of_the_playbook(project: Path) -> None:
    plan = read_plan(project)

    assert planned_services(plan, ("nodes", "controller", "all")) == ("redis", "bridge", "link", "executor")
    assert planned_services(plan, ("nodes",)) == ("redis", "bridge")
    assert planned_services(plan, ("others",)) == ()


def test_what_only_some_hosts_get_is_planned_for_none(project: Path) -> None:
    assert "exporter" not in planned_services(read_plan(project), ("nodes",))


def test_a_playbook_that_cannot_be_read_is_an_error_that_names_it(project: Path) -> None:
    (project / "playbooks/site.yml").write_text("- {", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"site\.yml"):
        read_plan(project)


def test_the_projects_own_plan_has_the_services_of_every_stage() -> None:
    plan = read_plan(PROJECT)

    assert {"redis", "dataclay_backend", "otlp_bridge", "host_metrics", "forecast_api", "superlink"} <= set(
        planned_services(plan, ("nodes", "controller"))
    )
    assert "supernode" in planned_services(plan, ("nodes", "workers"))
    assert "supernode" not in planned_services(plan, ("nodes", "controller"))
