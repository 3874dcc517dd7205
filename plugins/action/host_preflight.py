"""Ansible's door to icosfl.fleet.host_facts: asks a host once what it is, and refuses one that cannot carry the fleet.

What asks goes to the host's Python on the connection's standard input, so that a host that is refused has not even a
scratch file of ours, and the call costs it a quarter of the processor time of a module.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from icosfl.fleet import host_facts
from icosfl.fleet.host_docker import WantedDocker
from icosfl.fleet.host_facts import Asked, Place, Wanted
from icosfl.fleet.topology import Problem

SYSTEM_PYTHON = "/usr/bin/python3"


class ActionModule(ActionBase):
    """Fails with every problem of the host at once; changes nothing, in check mode neither."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the host is, or fail with all that is wrong with it."""
        super().run(tmp, task_vars)
        known = task_vars or {}
        host = str(known.get("inventory_hostname", ""))
        wanted = _wanted(self._task.args)
        python = self._python(known)
        try:
            asked = self._ask(host_facts.command(python), host_facts.program(wanted))
        except AnsibleError as error:
            connected = not isinstance(error, AnsibleConnectionFailure)
            address = str(self._play_context.remote_addr or host)
            return _refused([host_facts.unreachable(str(error), host, address, connected=connected)])
        found = host_facts.read_answer(asked, host, python)
        problems = [found] if isinstance(found, Problem) else host_facts.judge(found, asked, wanted, host)
        if isinstance(found, Problem) or problems:
            return _refused(problems)
        return {"changed": False, "found": found, "ansible_facts": {"host_found": found}}

    def _python(self, known: dict[str, Any]) -> str:
        given = self._templar.template(known.get("ansible_python_interpreter") or "auto")
        return SYSTEM_PYTHON if str(given).startswith("auto") else str(given)

    def _ask(self, command: str, program: str) -> Asked:
        start = time.time()
        result = self._low_level_execute_command(command, in_data=program.encode())
        return Asked(result["rc"], result["stdout"], result["stderr"], start, time.time())


def _wanted(arguments: dict[str, Any]) -> Wanted:
    """Return the task's arguments as a value.

    Raises:
        AnsibleActionFail: one is missing or of the wrong kind.
    """
    try:
        return Wanted(
            runtime=str(arguments["runtime"]),
            root=str(arguments["root"]).rstrip("/"),
            unit_prefix=str(arguments["unit_prefix"]),
            user=str(arguments["user"] or ""),
            ports={str(name): int(port) for name, port in arguments["ports"].items()},
            places=[
                Place(str(each["path"]), str(each.get("marker", "")), int(each["needed_mb"]))
                for each in arguments["places"]
                if int(each["needed_mb"])
            ],
            memory_mb=int(arguments["memory_mb"]),
            pythons=[str(each) for each in arguments["pythons"]],
            architectures=[str(each) for each in arguments["architectures"]],
            glibc=str(arguments["glibc"]),
            clock_tolerance_seconds=float(arguments["clock_tolerance_seconds"]),
            docker=_wanted_docker(arguments["docker"]) if arguments["runtime"] == "docker" else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnsibleActionFail(
            f"host_preflight: an argument is missing or wrong: {error}. Cure: ansible-doc -t module host_preflight"
        ) from error


def _wanted_docker(arguments: dict[str, Any]) -> WantedDocker:
    return WantedDocker(
        install=boolean(arguments["install"]),
        distributions=[str(each) for each in arguments["distributions"]],
        oldest=str(arguments["oldest"]),
        image_mb=int(arguments["image_mb"]),
        architecture=os.uname().machine,  # the image is made here
        plugin=str(arguments["plugin"]),
        program=str(arguments["program"]),
    )


def _refused(problems: list[Problem]) -> dict[str, Any]:
    """Return a failure, not an unreachable host: only failures count for max_fail_percentage."""
    return {"failed": True, "changed": False, "msg": "\n".join(map(str, problems))}
