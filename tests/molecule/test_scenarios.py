"""Molecule's scenarios: the federation, and of the roles' those that are quick; `--all-scenarios` runs all of them.

Each prints the seconds of its steps.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCENARIOS = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}
ROLES = {path.name for path in (ROOT / "roles").iterdir()}
SERVICES = {path.parts[-3] for path in ROOT.glob("roles/*/tasks/verify.yml")} - {"service", "docker_engine"}
ELSEWHERE = {"registration"}  # the scenario supernode registers
FAST = ("superlink", "redis_docker")  # of both runtimes one, and of both groups
STEP = re.compile(r"INFO +\[(\S+) > (.+?)\] Executing")


def test_every_role_has_a_scenario_and_every_service_one_in_containers() -> None:
    in_containers = {f"{role}_docker" for role in SERVICES}

    assert ROLES - ELSEWHERE | in_containers | {"default", "federation"} == SCENARIOS


@pytest.mark.parametrize("role", sorted(SERVICES))
def test_a_scenario_in_containers_runs_what_the_one_without_runs(role: str) -> None:
    plain, contained = (
        yaml.safe_load((ROOT / f"molecule/{name}/molecule.yml").read_text(encoding="utf-8"))["ansible"]
        for name in (role, f"{role}_docker")
    )

    assert contained["env"] == plain["env"]
    arguments = contained["executor"]["args"]["ansible_playbook"]
    assert "--extra-vars=icosfl_runtime=docker" in arguments
    assert set(plain.get("executor", {}).get("args", {}).get("ansible_playbook", ())) <= set(arguments)


@pytest.mark.parametrize("scenario", sorted(SCENARIOS - {"default", "federation"}))
def test_a_scenario_checks_converges_twice_and_asks(scenario: str) -> None:
    shared = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text(encoding="utf-8"))
    own = yaml.safe_load((ROOT / f"molecule/{scenario}/molecule.yml").read_text(encoding="utf-8"))
    sequence = {**shared["scenario"], **own.get("scenario", {})}["test_sequence"]

    wanted = ["check", "converge", "idempotence", "verify"]
    assert [step for step in sequence if step in wanted] == wanted


@pytest.mark.containers
@pytest.mark.timeout(1800)
def test_the_federation_is_deployed_trains_survives_its_faults_and_grows(
    docker_engine: docker.DockerClient, tmp_path: Path
) -> None:
    run("-s", "federation", state=tmp_path)


@pytest.mark.containers
@pytest.mark.timeout(3600)
def test_roles_work_alone(docker_engine: docker.DockerClient, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One call for all: they share their hosts."""
    if request.config.getoption("--all-scenarios", default=False):
        run("--all", "--exclude", "federation", "--exclude", "default", state=tmp_path)
    else:
        run(*(word for scenario in FAST for word in ("-s", scenario)), state=tmp_path)


def run(*arguments: str, state: Path) -> None:
    """Run `molecule test`, tell how long each step took, and fail with what it said last."""
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "NO_COLOR": "1",
        "MOLECULE_EPHEMERAL_DIRECTORY": str(state),  # an earlier run that was cut off must not count
    }
    with subprocess.Popen(
        ["molecule", "test", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = list(_steps(process))
    assert process.returncode == 0, "".join([*_failures(said), *said[-60:]])


def _failures(said: list[str]) -> list[str]:
    """What Ansible says where tasks failed: other hosts go on, and their tasks come after it."""
    places = [place for place, line in enumerate(said) if line.startswith(("fatal:", "[ERROR]"))]
    return [line for place in places for line in [*said[place : place + 15], "...\n"]]


def _steps(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield each line; tell each step's seconds when the next one begins."""
    step, started = "", time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        found = STEP.match(line)
        if found or line.startswith("DETAILS"):
            now = time.monotonic()
            if step:
                sys.stdout.write(f"{now - started:6.1f} s  {step}\n")
            step, started = (f"{found[1]}: {found[2]}" if found else ""), now
