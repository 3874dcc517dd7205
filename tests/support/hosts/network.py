"""A fleet's network: addresses that nobody else uses here, and no way out."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError
from docker.types import IPAMConfig, IPAMPool

from support.hosts.machine import NoContainers

_RANGE = IPv4Network("10.201.0.0/16")
_FIRST = 11  # the first host's number in its network: the machine itself is .1


def make_network(engine: docker.DockerClient, name: str, labels: Mapping[str, str]) -> Any:
    """Make an internal network in a free part of the range: its hosts reach one another and the machine, nobody else.

    Raises:
        NoContainers: every part of the range is in use here.
    """
    used = list(_routes())
    for subnet in _RANGE.subnets(new_prefix=24):
        if any(subnet.overlaps(other) for other in used):
            continue
        ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet))])
        try:
            return engine.networks.create(name, internal=True, ipam=ipam, labels=dict(labels), check_duplicate=True)
        except APIError as error:
            if "overlap" not in str(error.explanation):
                raise
    raise NoContainers(f"This machine has routes to all of {_RANGE}", cure="remove Docker networks that nobody uses")


def first_address(network: Any, number: int) -> str:
    """The address of a network's host, counted from 0."""
    network.reload()
    subnet = IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"])
    return str(subnet[_FIRST + number])


def _routes() -> Iterator[IPv4Network]:
    for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        address, mask = (socket.inet_ntoa(struct.pack("<L", int(fields[column], 16))) for column in (1, 7))
        if mask != "0.0.0.0":  # the default route overlaps everything
            yield IPv4Network(ip_network(f"{address}/{mask}", strict=False))
