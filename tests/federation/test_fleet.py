"""A whole fleet on this machine, deployed by the real playbooks, trained, killed piece by piece, and removed.

The tests run in the order in which they stand: each finds the fleet as the one before it left it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import yaml

from icosfl.aggregate.progress import RoundDone, read_progress
from icosfl.fleet.authority import open_authority
from icosfl.fleet.clients import issue
from icosfl.fleet.everywhere import look
from icosfl.fleet.inventory import Fleet as Planned
from icosfl.fleet.inventory import load_fleet
from icosfl.fleet.status import HostStatus
from support.outside import proof, send

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PORTS = yaml.safe_load((ROOT / "group_vars/all/ports.yml").read_text(encoding="utf-8"))
HOSTS = ("control", "worker-1", "worker-2")
ONE_OF_A_KIND = ("control", "worker-2")  # worker-1 is as worker-2 is, but for its bridge
# Every service once, several hosts and several links of one host's chain at the same time.
KILLED_TOGETHER = {
    "stores": [
        ("control", "redis"),
        ("control", "forecast_api"),
        ("worker-1", "dataclay_backend"),
        ("worker-2", "supernode"),
    ],
    "bridges": [
        ("control", "dataclay_metadata"),
        ("control", "superlink_executor"),
        ("worker-1", "otlp_bridge"),
        ("worker-2", "forecast_api"),
    ],
    "links": [
        ("control", "dataclay_proxy"),
        ("control", "superlink"),
        ("worker-1", "redis"),
        ("worker-1", "host_metrics"),
    ],
}
NINE_NODES = json.dumps({"training_nodes": 9, "training_run_config": {"min-nodes": 9}})
PREDICTORS = {"global", "persistence", "moving_average", "seasonal_naive", "ar", "nlinear"}
# Where worker-2's bridge listens for collectors on other hosts, who trust no address of this machine but that.
OUTSIDE = "127.0.0.2"
GREEN_WITHIN_SECONDS = 90  # half a minute on an idle machine

pytestmark = [pytest.mark.federation, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Fleet:
    """The fleet under test: its inventory and the directory of its hosts."""

    inventory: Path
    home: Path
    slots: dict[str, int]

    def icosfl(self, *arguments: str, check: bool = True) -> Any:
        """Run an icosfl command and return the JSON that it said last."""
        done = self.run("icosfl", "-i", str(self.inventory), "--json", *arguments)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return last_document(done.stdout)

    def playbook(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ansible-playbook as an operator would."""
        return self.run("ansible-playbook", name, "-i", str(self.inventory), *arguments)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the locked environment in the project's root."""
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    def status(self) -> dict[str, HostStatus]:
        """What `icosfl status` shows, by host, without the two processor seconds of its start."""
        return {host.host: host for host in look(self._planned).hosts}

    @cached_property
    def _planned(self) -> Planned:
        return load_fleet(self.inventory, ROOT)

    def pids(self) -> dict[tuple[str, str], int]:
        """The process of each service, by host and name; 0 for one that does not run."""
        return {(name, each.name): each.pid for name, host in self.status().items() for each in host.services}

    def port(self, host: str, service: str) -> int:
        """The port of a service, computed as the plan says."""
        return int(PORTS["icosfl_ports"][service] + self.slots[host] * PORTS["icosfl_port_stride"])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """An inventory like inventories/local, but in a directory and on ports of its own; removed at the end."""
    base = tmp_path_factory.mktemp("fleet")
    home = base / "home"
    values = yaml.safe_load((ROOT / "inventories/local/group_vars/local.yml").read_text(encoding="utf-8"))
    values |= {
        "icosfl_project_dir": str(ROOT),
        "icosfl_home": f"{home}/{{{{ inventory_hostname }}}}",
        "icosfl_venv": str(BIN.parent),
        "icosfl_pki_dir": str(base / "pki"),
        "icosfl_training": {**values["icosfl_training"], "num-server-rounds": 1},
    }
    slots = free_slots()
    hosts: dict[str, dict[str, Any]] = {name: {"icosfl_slot": slot} for name, slot in slots.items()}
    hosts["worker-2"]["icosfl_otlp_listen"] = OUTSIDE
    control = {"control": hosts.pop("control")}
    groups = {"controller": {"hosts": control}, "workers": {"hosts": hosts}}
    (base / "inventory/group_vars").mkdir(parents=True)
    (base / "inventory/hosts.yml").write_text(yaml.safe_dump({"local": {"children": {"nodes": {"children": groups}}}}))
    (base / "inventory/group_vars/local.yml").write_text(yaml.safe_dump(values))
    fleet = Fleet(base / "inventory", home, slots)

    yield fleet

    fleet.playbook("playbooks/reset.yml", "-e", "icosfl_reset_confirmed=true")


@pytest.fixture(scope="module")
def client(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with what a collector proves itself with, once there is a fleet."""
    folder = tmp_path_factory.mktemp("client")
    made = fleet.icosfl("certificate", "gateway", "--output", str(folder))
    assert made["bridges"] == {"worker-2": outside(fleet)}
    return folder


def outside(fleet: Fleet) -> str:
    """Where worker-2's bridge listens for other hosts."""
    return f"{OUTSIDE}:{fleet.port('worker-2', 'otlp_remote')}"


def issued(fleet: Fleet) -> dict[str, str]:
    """The certificates of hosts that the control node knows."""
    return {file.name: file.read_text() for file in (fleet.home.parent / "pki/issued").iterdir()}


def free_slots() -> dict[str, int]:
    """The first slots from 10 on whose ports nobody uses: other fleets may run on this machine."""
    used = {each.laddr.port for each in psutil.net_connections("inet") if each.laddr}
    for first in range(10, 100, len(HOSTS)):
        slots = {host: first + number for number, host in enumerate(HOSTS)}
        bases, stride = PORTS["icosfl_ports"].values(), PORTS["icosfl_port_stride"]
        if not used & {base + slot * stride for base in bases for slot in slots.values()}:
            return slots
    raise AssertionError("no free slots on this machine")


def recap(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    """The counts of a playbook's recap, by host."""
    assert "PLAY RECAP" in done.stdout, done.stdout + done.stderr
    counts = {}
    for line in done.stdout.split("PLAY RECAP")[1].splitlines()[1:]:
        name, found, rest = line.partition(" : ")
        if found:
            counts[name.strip()] = {key: int(value) for key, value in (part.split("=") for part in rest.split())}
    return counts


def test_a_check_on_an_empty_machine_is_clean_and_touches_nothing(fleet: Fleet) -> None:
    done = fleet.playbook("site.yml", "--check", "--diff", "--limit", ",".join(ONE_OF_A_KIND))

    assert done.returncode == 0, done.stdout + done.stderr
    counts = recap(done)
    assert set(counts) == set(ONE_OF_A_KIND)
    assert all(each["failed"] == 0 and each["changed"] > 0 for each in counts.values())
    assert not fleet.home.exists()


def test_one_command_deploys_a_fleet_whose_services_all_work(fleet: Fleet) -> None:
    result = fleet.icosfl("up")

    assert result, "up says what it did"
    green = dict.fromkeys(HOSTS, "green")
    # Nobody helps them; a look at a busy machine may find one that is slow to answer.
    wait_until(lambda: {host["host"]: host["condition"] for host in told(fleet)} == green, 30)


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    done = fleet.playbook("site.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert {host: counts["changed"] for host, counts in recap(done).items()} == dict.fromkeys(HOSTS, 0)


def test_a_check_on_a_deployed_machine_finds_nothing_to_change(fleet: Fleet) -> None:
    done = fleet.playbook("site.yml", "--check", "--diff", "--limit", ",".join(ONE_OF_A_KIND))

    assert done.returncode == 0, done.stdout + done.stderr
    assert {host: counts["changed"] for host, counts in recap(done).items()} == dict.fromkeys(ONE_OF_A_KIND, 0)


def test_every_hop_is_proved(fleet: Fleet) -> None:
    done = fleet.playbook("playbooks/verify.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert all(counts["failed"] == 0 and counts["ok"] >= 5 for counts in recap(done).values())


def test_everything_listens_on_loopback_only(fleet: Fleet) -> None:
    pids = fleet.pids().values()
    addresses = [c.laddr.ip for c in psutil.net_connections("inet") if c.status == "LISTEN" and c.pid in pids]
    listening = [address.removeprefix("::ffff:") for address in addresses]

    assert len(listening) >= 3 * 7
    assert set(listening) <= {"127.0.0.1", "::1", OUTSIDE}
    assert listening.count(OUTSIDE) == 1


def test_a_node_without_a_model_says_why_it_is_not_ready(fleet: Fleet) -> None:
    answer = httpx.get(f"http://127.0.0.1:{fleet.port('worker-1', 'forecast')}/v1/forecast")

    assert answer.status_code == 503
    assert "no model yet" in " ".join(answer.json()["reasons"])


def test_a_federated_run_gives_every_node_the_same_model_and_forecasts(fleet: Fleet) -> None:
    fleet.icosfl("watch", "--until-ready")

    fleet.icosfl("train")

    wait_until(lambda: all(host.green for host in fleet.status().values()), 30)
    answers = [forecast(fleet, host) for host in HOSTS]
    assert len({answer["model"]["digest"] for answer in answers}) == 1
    assert answers[0]["model"]["nodes"] == ["worker-1", "worker-2"]
    for answer in answers:
        series = {(each["series"], each["unit"]) for each in answer["forecasts"]}
        assert {("cpu_usage", "%"), ("memory_usage", "MiBy"), ("load_1m", "1")} <= series
        for each in answer["forecasts"]:
            assert set(each["candidates"]) == PREDICTORS
            assert each["candidates"][each["model"]] == each["value"]
            assert each["lower"] <= each["value"] <= each["upper"]
            assert each["series"] != "cpu_usage" or 0 <= each["value"] <= 100


def test_a_run_whose_serverapp_is_killed_goes_on_and_whoever_waits_is_told(fleet: Fleet) -> None:
    runs = fleet.home / "control/data/runs"
    earlier = set(runs.iterdir())
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(fleet.icosfl, "train", "-c", "num-server-rounds=2")
        wait_until(lambda: any(rounds_done(run) for run in set(runs.glob("[0-9]*")) - earlier), 120)
        executor = psutil.Process(fleet.pids()["control", "superlink_executor"])
        for process in executor.children(recursive=True):
            process.kill()
        result = training.result()

    [run] = set(runs.glob("[0-9]*")) - earlier
    assert rounds_done(run) == [1, 2]
    told = [line for line in result["lines"] if line.startswith(f"run {run.name}: its ServerApp died; goes on after")]
    assert len(told) == 1
    assert told[0].startswith(f"run {run.name}: its ServerApp died; goes on after round 1 of 2, in Flower's run ")
    assert result["reports"]["control"]["run"] == run.name
    answers = [forecast(fleet, host)["model"] for host in HOSTS]
    assert {answer["digest"] for answer in answers} == {result["reports"]["control"]["digest"]}


@pytest.mark.parametrize("targets", KILLED_TOGETHER.values(), ids=KILLED_TOGETHER)
def test_killed_services_come_back_green_with_their_rows(fleet: Fleet, targets: list[tuple[str, str]]) -> None:
    before = fleet.pids()
    wait_until(lambda: all(stored_rows(fleet, host) for host in HOSTS), 30)
    rows = {host: stored_rows(fleet, host) for host in HOSTS}

    for target in targets:
        os.kill(before[target], signal.SIGKILL)

    def back() -> bool:
        now = fleet.pids()
        return all(now[target] not in {0, before[target]} for target in targets) and all(
            host.green for host in fleet.status().values()
        )

    wait_until(back, GREEN_WITHIN_SECONDS)
    wait_until(lambda: all(stored_rows(fleet, host) > rows[host] for host in HOSTS), 30)


def test_a_changed_value_restarts_only_what_reads_it(fleet: Fleet) -> None:
    def restarted(seconds: int) -> set[tuple[str, str]]:
        before = fleet.pids()
        done = fleet.playbook("site.yml", "--limit", "worker-2", "-e", f"otlp_bridge_drain_seconds={seconds}")
        assert done.returncode == 0, done.stdout + done.stderr
        after = fleet.pids()
        return {each for each in before if before[each] != after[each]}

    found = restarted(4)
    if found != {("worker-2", "otlp_bridge")}:  # a SuperNode may be late to notice that its SuperLink was killed before
        found &= restarted(5)

    assert found == {("worker-2", "otlp_bridge")}


def test_a_collector_on_another_host_may_send_with_a_certificate_of_the_fleet(fleet: Fleet, client: Path) -> None:
    send(outside(fleet), proof(client))


def test_nobody_else_on_another_host_may_send(fleet: Fleet, client: Path, tmp_path: Path) -> None:
    foreign = open_authority(tmp_path / "pki", "icosfl inventory", datetime.now(UTC))
    made = issue("gateway", tmp_path, directory=tmp_path / "pki", days=1, now=datetime.now(UTC))
    stranger = grpc.ssl_channel_credentials(
        (client / "ca.crt").read_bytes(), made.key.read_bytes(), made.certificate.read_bytes()
    )
    nobody = grpc.ssl_channel_credentials((client / "ca.crt").read_bytes())

    assert foreign.certificate != (client / "ca.crt").read_text()
    for credentials in (None, nobody, stranger):
        with pytest.raises(grpc.RpcError) as refused:
            send(outside(fleet), credentials)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_renewed_certificates_restart_only_who_reads_them(fleet: Fleet, client: Path) -> None:
    before, shown = fleet.pids(), issued(fleet)

    done = fleet.playbook("playbooks/rotate-certs.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    after, renewed = fleet.pids(), issued(fleet)
    assert set(shown) == {"control.superlink.crt", "worker-2.otlp_bridge.crt"} == set(renewed)
    assert all(shown[name] != renewed[name] for name in shown)
    restarted = {each for each in before if before[each] != after[each]}
    shows_ends = {("control", "host_metrics"), ("worker-2", "host_metrics")}
    assert restarted == {("control", "superlink"), ("worker-2", "otlp_bridge"), *shows_ends}
    send(outside(fleet), proof(client))


def test_a_host_that_shall_not_be_reached_from_outside_any_more_is_not(fleet: Fleet, client: Path) -> None:
    done = fleet.playbook("site.yml", "--limit", "worker-2", "-e", "icosfl_otlp_listen=")

    assert done.returncode == 0, done.stdout + done.stderr
    assert set(issued(fleet)) == {"control.superlink.crt"}
    with pytest.raises(grpc.RpcError):
        send(outside(fleet), proof(client))


def test_a_schedule_is_kept_while_one_is_set_and_gone_when_none_is(fleet: Fleet) -> None:
    switched, checks = "playbooks/schedule.yml", ("-e", "icosfl_drift_check_every=24h")

    def changed(*arguments: str) -> int:
        done = fleet.playbook(switched, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return recap(done)["control"]["changed"]

    def note() -> str:
        notes = {service.name: service.note for service in fleet.status()["control"].services}
        return notes.get("retraining", "")

    assert changed(*checks, "--check", "--diff") == 1
    assert not note()
    assert [changed(*checks), changed(*checks), changed(*checks, "--check", "--diff")] == [1, 0, 0]
    wait_until(lambda: note().startswith("next: check "), 30)  # in 24 hours: nothing is begun
    assert fleet.status()["control"].green
    done = fleet.playbook("playbooks/verify.yml", "--limit", "control", *checks)
    assert done.returncode == 0, done.stdout + done.stderr

    assert [changed("--check", "--diff"), changed(), changed()] == [1, 1, 0]
    assert ("control", "retraining") not in fleet.pids()


def test_a_run_with_fewer_nodes_than_wanted_fails_and_names_the_cure(fleet: Fleet) -> None:
    done = fleet.playbook("playbooks/train.yml", "-e", NINE_NODES, "-e", "training_nodes_timeout=3")

    assert done.returncode != 0
    words = " ".join(done.stdout.split())
    assert "of 9 SuperNodes are online, and a run needs 9; missing: " in words
    assert "more that nobody registered" in words
    assert "icosfl status" in done.stdout


def test_down_stops_everything_and_keeps_rows_and_models(fleet: Fleet) -> None:
    fleet.icosfl("down")

    assert not running_below(fleet.home)
    assert list((fleet.home / "worker-1/data/models").glob("*.npz"))


def test_a_host_with_a_busy_port_and_too_little_memory_is_told_both_before_anything_starts(fleet: Fleet) -> None:
    port = fleet.port("worker-1", "host_metrics")
    lacking = json.dumps({"icosfl_required_memory_mb": 99999999})
    server = subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"])
    try:
        wait_until(lambda: port in {c.laddr.port for c in psutil.net_connections("inet") if c.status == "LISTEN"}, 20)

        done = fleet.playbook("site.yml", "--limit", "worker-1", "-e", lacking)
    finally:
        server.kill()
        server.wait()

    text = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert f"port {port} (host_metrics) is already used by pid {server.pid}" in text
    assert "of memory" in text
    assert "Cure:" in text
    assert not running_below(fleet.home)


def test_a_program_that_is_not_there_is_refused_with_the_cure(fleet: Fleet) -> None:
    done = fleet.playbook("site.yml", "--limit", "control", "-e", "icosfl_redis_binary=/nowhere/redis-server")

    text = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "/nowhere/redis-server" in text
    assert "Cure:" in text


def test_reset_leaves_nothing_behind(fleet: Fleet) -> None:
    done = fleet.playbook("playbooks/reset.yml")
    assert done.returncode != 0
    assert "confirm it" in done.stdout

    fleet.icosfl("reset", "--yes")

    assert not running_below(fleet.home)
    assert not [path for path in fleet.home.rglob("*") if path.is_file()]


def rounds_done(run: Path) -> list[int]:
    """The rounds that a run has told of, in their order."""
    return [event.round for event in read_progress(run) if isinstance(event, RoundDone)]


def last_document(text: str) -> Any:
    """The last of the JSON documents in a text: `watch` says one at each look."""
    document, end, decoder = None, 0, json.JSONDecoder()
    text = text.strip()
    while end < len(text):
        document, end = decoder.raw_decode(text, end)
        end += len(text[end:]) - len(text[end:].lstrip())
    return document


def told(fleet: Fleet) -> list[dict[str, Any]]:
    """What `icosfl status` says of each host."""
    return list(fleet.icosfl("status", check=False)["hosts"])


def stored_rows(fleet: Fleet, host: str) -> int:
    """How many rows a node's forecast service finds in its store; none while it, or the store, does not answer."""
    try:
        found = httpx.get(f"http://127.0.0.1:{fleet.port(host, 'forecast')}/readyz").json()["store"]
    except httpx.TransportError:
        return 0
    return int(found["rows"]) if found else 0


def forecast(fleet: Fleet, host: str) -> dict[str, Any]:
    """A node's forecasts, from its endpoint, once it has them."""
    url = f"http://127.0.0.1:{fleet.port(host, 'forecast')}/v1/forecast"
    deadline = time.monotonic() + 30
    while (answer := httpx.get(url)).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.3)
    return dict(answer.json())


def wait_until(condition: Any, seconds: float) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.3)


def running_below(home: Path) -> list[psutil.Process]:
    """The processes whose command line names a file below `home`."""
    return [each for each in psutil.process_iter(["cmdline"]) if str(home) in " ".join(each.info["cmdline"] or [])]
