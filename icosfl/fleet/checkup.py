"""What `icosfl doctor` asks of a fleet: this machine as a home and as the control node, and each host over SSH."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from icosfl.errors import IcosflError
from icosfl.fleet import authority, bundle
from icosfl.fleet.afar import JOIN_NODES, NOT_ASKED, collect
from icosfl.fleet.events import Failure
from icosfl.fleet.inventory import Fleet, Host
from icosfl.fleet.machine import gather
from icosfl.fleet.preflight import Check, examine

PLAYBOOK = "preflight"
ROTATE = "ansible-playbook playbooks/rotate-certs.yml"
CLIENT_ANEW = "icosfl certificate {name} --output DIR, and carry it there; if nobody uses it any more, delete {file}"
_CURE = " Cure: "


def examine_fleet(fleet: Fleet) -> tuple[Check, ...]:
    """Return all checks: of this machine, then, for hosts of others, of what Ansible needs here and of each host.

    Raises:
        ConfigError: requirements.lock cannot be read.
        RunFailed: Ansible cannot be run at all.
        KeyboardInterrupt: somebody ended it.
    """
    here = examine(gather(fleet))
    far = [host for host in fleet.hosts if not host.is_local]
    certificates = tuple(_certificates(fleet))
    if not far:
        return (*here, *certificates)
    return (*here, _ssh(), *_bundle(fleet), *certificates, *_hosts(fleet, far))


def _ssh() -> Check:
    found = shutil.which("ssh")
    if found:
        return Check("ssh", "ok", found)
    return Check("ssh", "failed", "there is no ssh on this machine", "install it: apt-get install openssh-client")


def _bundle(fleet: Fleet) -> Iterator[Check]:
    """Whether the release is built that hosts would get now."""
    wanted = {(host.bundles_dir, host.release_extras) for host in fleet.hosts if host.python_source == "bundle"}
    for folder, extras in sorted(wanted):
        try:
            plan = bundle.planned(bundle.Wanted(fleet.project, folder, extras=extras))
            built = bundle.found(folder, plan.id)
        except IcosflError as error:
            yield Check("bundle", "failed", error.message, error.cure)
            continue
        if built is not None:
            yield Check("bundle", "ok", f"{plan.id} is built")
        else:
            yield Check("bundle", "warning", f"{plan.id} is not built yet", "icosfl bundle; icosfl up does it, too")


def _certificates(fleet: Fleet) -> Iterator[Check]:
    """How long the certificates hold that this control node issued; the names of those that need care."""
    now = datetime.now(UTC)
    for folder in sorted({host.pki_dir for host in fleet.hosts}):
        try:
            found = authority.expiries(folder, now)
        except IcosflError as error:
            yield Check("certificates", "failed", error.message, error.cure)
            continue
        if not found:
            yield Check("certificates", "ok", "none yet: icosfl up makes them")
            continue
        for each in found:
            file = folder / authority.CLIENTS / f"{each.name}.crt"
            cure = CLIENT_ANEW.format(name=each.name, file=file) if each.of_client else ROTATE
            if each.days_left <= 0:
                yield Check("certificates", "failed", f"{each.name}: expired {-each.days_left:.0f} days ago", cure)
            elif each.ages:
                yield Check("certificates", "warning", f"{each.name}: {each.days_left:.0f} days left", cure)
        first = found[0]
        if not first.ages:
            yield Check(
                "certificates", "ok", f"{len(found)}, the first ends in {first.days_left:.0f} days: {first.name}"
            )


def _hosts(fleet: Fleet, hosts: Sequence[Host]) -> Iterator[Check]:
    """Let each host be judged by the same preflight that site.yml starts with."""
    collector, result = collect(PLAYBOOK, fleet, hosts, {})
    broken = next((failure for failure in result.failures if not failure.host), None)
    if broken is not None:
        yield Check("hosts", "failed", broken.message, broken.cure or f"see {result.log or 'the inventory'}")
        return
    for host in hosts:
        refused = collector.failures.get(host.name)
        if refused is not None:
            yield from refusals(host.name, refused[0])
        elif any(recap.host == host.name for recap in result.hosts):
            yield Check(host.name, "ok", "it can carry its services")
        else:
            yield Check(host.name, "failed", NOT_ASKED, JOIN_NODES)


def refusals(host: str, failure: Failure) -> Iterator[Check]:
    """A check for each reason for which the preflight refused a host: it tells one on each line, with its cure."""
    if _CURE not in failure.message:
        yield Check(host, "failed", failure.message.removeprefix(f"{host}: "), failure.cure)
        return
    for line in failure.message.splitlines():
        wrong, _, cure = line.partition(_CURE)
        yield Check(host, "failed", wrong.removeprefix(f"{host}: ").rstrip("."), cure)
