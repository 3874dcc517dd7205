"""Asks hosts of other machines: one run of playbooks/look.yml, one call of the module node_report for each host.

So SSH, become, host keys and vaults are Ansible's, and stand once, in the inventory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from icosfl.errors import IcosflError, RunFailed
from icosfl.fleet.display import Silent
from icosfl.fleet.events import Failure, HostDone, Step, Tally
from icosfl.fleet.inventory import Fleet, Host
from icosfl.fleet.planned import read_plan
from icosfl.fleet.report import Report, from_plain
from icosfl.fleet.runner import Playbook, PlaybookResult, run_playbook
from icosfl.fleet.status import Condition

PLAYBOOK = "look"
UP = "icosfl up"
NOT_ASKED = "Ansible did not ask it"
JOIN_NODES = "put it into the group nodes of the inventory"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a host said nothing: how it stands for `icosfl status`, why, and what to do."""

    condition: Condition
    reason: str
    cure: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.cure})" if self.cure else self.reason


Answer = Report | Trouble


@dataclass
class Collector(Silent):
    """Keeps what hosts answer while the playbook runs."""

    reports: dict[str, Mapping[str, object]] = field(default_factory=dict)
    failures: dict[str, tuple[Failure, bool]] = field(default_factory=dict)

    def show(self, step: Step, tally: Tally) -> None:
        """Keep a host's report, or why it has none."""
        del tally
        if not isinstance(step, HostDone):
            return
        if step.report is not None:
            self.reports[step.host] = step.report
        if step.failure is not None:
            self.failures[step.host] = (step.failure, step.outcome == "unreachable")

    def answer(self, host: str) -> Answer:
        """What a host said, or why it said nothing."""
        if host in self.failures:
            return trouble_of(*self.failures[host])
        if host not in self.reports:
            return Trouble("unreachable", NOT_ASKED, JOIN_NODES)
        try:
            return from_plain(self.reports[host])
        except IcosflError as error:
            return Trouble("down", error.message, error.cure)


def ask_afar(fleet: Fleet, hosts: Sequence[Host], pages: Sequence[str]) -> dict[str, Answer]:
    """Ask these hosts by Ansible, all at the same time; one that cannot be asked is told with its reason and cure.

    Args:
        fleet: The fleet.
        hosts: Those of it that are asked.
        pages: What is asked, of `icosfl.fleet.report.PAGES`.

    Raises:
        RunFailed: the playbook cannot be run at all.
        KeyboardInterrupt: somebody ended it.
    """
    if not hosts:
        return {}
    variables = {"look_pages": list(pages), "look_planned": {k: list(v) for k, v in read_plan(fleet.project).items()}}
    collector, result = collect(PLAYBOOK, fleet, hosts, variables)
    _refuse_broken(result)
    return {host.name: collector.answer(host.name) for host in hosts}


def collect(
    playbook: str, fleet: Fleet, hosts: Sequence[Host], variables: Mapping[str, object]
) -> tuple[Collector, PlaybookResult]:
    """Run a playbook on these hosts of the fleet, and return what they said and how it ended.

    Raises:
        RunFailed: the playbook cannot be run at all.
        KeyboardInterrupt: somebody ended it.
    """
    limit = None if len(hosts) == len(fleet.hosts) else ",".join(host.name for host in hosts)
    collector = Collector()
    result = run_playbook(Playbook(playbook, fleet.inventory, fleet.project, variables, limit), collector)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return collector, result


def _refuse_broken(result: PlaybookResult) -> None:
    """Hosts that fail are answers; a playbook that breaks before its end is none."""
    broken = [failure for failure in result.failures if not failure.host]
    if result.status == "failed" and broken:
        raise RunFailed(
            f"the hosts could not be asked: {broken[0].message}",
            cure=broken[0].cure or f"see {result.log or 'the inventory'}",
        )


def trouble_of(failure: Failure, unreachable: bool) -> Trouble:
    """How a host stands of which Ansible says only why a task failed there."""
    if failure.kind == "no release":
        return Trouble("not deployed", failure.message, failure.cure or UP)
    condition: Condition = "unreachable" if unreachable or failure.kind == "no access" else "down"
    return Trouble(condition, failure.message, failure.cure)
