"""What a service may use of its machine, in Docker's words: for Compose, and for a container that runs.

Pure. A tmpfs counts as memory, and no container may swap: what does not fit ends, as it does under systemd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from icosfl.fleet.service import Limits

LEAST_MEMORY_MB = 6  # Docker refuses less

_OF_INIT_AND_CHECK = 4  # processes and threads that a container has beside its service's
# systemd's own way from one scale to the other; 100 stands for what Docker gives to all.
# Where control groups are of version 2, runc makes weights of them, so that all must be stated to compare.
_SHARES, _FEWEST_SHARES, _MOST_SHARES = 1024, 2, 262_144
_BLOCK_WEIGHT, _LOWEST_BLOCK_WEIGHT, _HIGHEST_BLOCK_WEIGHT = 500, 10, 1000
_COMMON_WEIGHT, _HIGHEST_WEIGHT = 100, 10_000


@dataclass(frozen=True, slots=True)
class Machine:
    """What limits depend on.

    Args:
        cpus: How many it has; Docker refuses more.
        unified: Whether its control groups are of version 2.
        weighs_io: Whether they take weights of input and output; if not, Docker would not start a container with one.
    """

    cpus: int
    unified: bool = False
    weighs_io: bool = True


def compose_limits(limits: Limits, machine: Machine) -> dict[str, Any]:
    """Return the keys of a Compose service that limit it.

    Args:
        limits: The service's.
        machine: Where it runs.
    """
    keys: dict[str, Any] = {}
    if limits.memory_max_mb is not None:
        keys["mem_limit"] = keys["memswap_limit"] = f"{_memory(limits.memory_max_mb)}m"
    if limits.cpu_quota_percent is not None:
        keys["cpus"] = _cpus(limits.cpu_quota_percent, machine.cpus)
    keys["cpu_shares"] = _shares(_COMMON_WEIGHT if limits.cpu_weight is None else limits.cpu_weight)
    if limits.io_weight is not None and machine.weighs_io:
        keys["blkio_config"] = {"weight": _block_weight(limits.io_weight, machine)}
    if limits.tasks_max is not None:
        keys["pids_limit"] = limits.tasks_max + _OF_INIT_AND_CHECK
    return keys


def update_words(before: Limits, after: Limits, machine: Machine) -> list[str]:
    """Return the options of `docker update` that change a running container's limits; none when nothing changes.

    Args:
        before: The limits that it has.
        after: Those that it is to have.
        machine: Where it runs.
    """
    return [word for option in _changes(before, after, machine) for word in option]


def lifted(before: Limits, after: Limits) -> bool:
    """Return whether a limit is no more: Docker cannot take one from a container that runs."""
    return bool(before.stated().keys() - after.stated().keys())


def _changes(before: Limits, after: Limits, machine: Machine) -> Iterator[tuple[str, ...]]:
    changed = {name: value for name, value in after.stated().items() if before.stated().get(name) != value}
    if "memory_max_mb" in changed:
        size = f"{_memory(changed['memory_max_mb'])}m"
        yield "--memory", size, "--memory-swap", size
    if "cpu_quota_percent" in changed:
        yield "--cpus", str(_cpus(changed["cpu_quota_percent"], machine.cpus))
    if "cpu_weight" in changed:
        yield "--cpu-shares", str(_shares(changed["cpu_weight"]))
    if "io_weight" in changed and machine.weighs_io:
        yield "--blkio-weight", str(_block_weight(changed["io_weight"], machine))
    if "tasks_max" in changed:
        yield "--pids-limit", str(changed["tasks_max"] + _OF_INIT_AND_CHECK)


def _memory(megabytes: int) -> int:
    return max(megabytes, LEAST_MEMORY_MB)


def _cpus(percent: int, cpus: int) -> float:
    return min(percent / 100, float(cpus))


def _shares(weight: int) -> int:
    return min(max(weight * _SHARES // 100, _FEWEST_SHARES), _MOST_SHARES)


def _block_weight(weight: int, machine: Machine) -> int:
    lowest, highest = _LOWEST_BLOCK_WEIGHT, _HIGHEST_BLOCK_WEIGHT
    if machine.unified:  # the reverse of what runc does
        return lowest + round((min(max(weight, 1), _HIGHEST_WEIGHT) - 1) * (highest - lowest) / (_HIGHEST_WEIGHT - 1))
    return min(max(weight * _BLOCK_WEIGHT // 100, lowest), highest)
