"""What keeps a host's private network private: packet filter rules for engines that leave it open.

Pure. Before Engine 28, whoever routes the network's addresses by way of this machine reaches the containers themselves,
whatever address their ports are published at. A chain of ours lets in what `publish` offers beyond this machine, and
answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from icosfl.fleet.service import Service
from icosfl.fleet.systemd_units import MARK

USER_CHAIN = "DOCKER-USER"  # Docker asks it first, and leaves it alone

_FIRST_THAT_GUARDS = (1, 48)  # API of Engine 28
_LONGEST_INTERFACE, _LONGEST_CHAIN = 15, 28
_HASH = 8

_UNIT = """\
# Written by Ansible: changes are lost.
[Unit]
Description=Keeps the private network of the icosfl services of {root} private
After=docker.service
PartOf=docker.service
{mark}{root}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={restore} --wait --noflush {rules}
ExecStart=/bin/sh -c '{iptables} --wait -C {jump} || {iptables} --wait -I {jump}'

[Install]
WantedBy=docker.service
"""


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of one host.

    Args:
        bridge: The interface of its network.
        chain: The chain of ours.
        ports: What may be reached from elsewhere.
    """

    bridge: str
    chain: str
    ports: tuple[int, ...] = ()

    @property
    def jump(self) -> tuple[str, ...]:
        """The rule that leads to our chain, after -C, -I or -D: for all that comes into the network from elsewhere."""
        return (USER_CHAIN, "-o", self.bridge, "!", "-i", self.bridge, "-j", self.chain)

    def rules(self) -> str:
        """Return the chain as `iptables-restore --noflush` reads it, which replaces one of the same name."""
        offered = "".join(f"-A {self.chain} -p tcp --dport {port} -j RETURN\n" for port in self.ports)
        return (
            "# Written by Ansible: changes are lost.\n"
            "*filter\n"
            f":{self.chain} - [0:0]\n"
            f"-A {self.chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n"
            f"{offered}"
            f"-A {self.chain} -j DROP\n"
            "COMMIT\n"
        )

    def unit(self, root: str, rules: str, iptables: str, restore: str) -> str:
        """Return the unit that lays the rules whenever Docker starts.

        Args:
            root: The host's root directory.
            rules: The file of the rules.
            iptables: The program that lays one rule.
            restore: The program that lays a file of them.
        """
        words = {"iptables": iptables, "restore": restore, "jump": " ".join(self.jump)}
        return _UNIT.format(root=root, mark=MARK, rules=rules, **words)


def guard_of(prefix: str, services: Iterable[Service]) -> Guard:
    """Return the guard of a host.

    Args:
        prefix: Of its names.
        services: Those on its private network.
    """
    offered = {
        service.ports[name]
        for service in services
        for name, address in service.publish.items()
        if address not in {"::1", "localhost"} and not address.startswith("127.")
    }
    return Guard(bridge_of(prefix), _short(prefix, "", "-guard", _LONGEST_CHAIN), tuple(sorted(offered)))


def bridge_of(prefix: str) -> str:
    """Return the interface of the network of a host, by the prefix of its names."""
    return _short(prefix, "br-", "", _LONGEST_INTERFACE)


def is_needed(api: tuple[int, ...]) -> bool:
    """Return whether an engine that speaks this API leaves private networks open."""
    return api < _FIRST_THAT_GUARDS


def _short(name: str, before: str, after: str, longest: int) -> str:
    room = longest - len(before) - len(after)
    if len(name) > room:
        name = f"{name[: room - _HASH - 1]}-{hashlib.sha256(name.encode()).hexdigest()[:_HASH]}"
    return f"{before}{name}{after}"
