#!/usr/bin/python
"""Ansible's door to icosfl.fleet.part_install: the one call a host that gives it its third-party programs.

The action of the same name runs on the control node, fetches the programs there, and ships those that a host lacks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.part_install import (  # type: ignore[import-not-found]
    PartRefused,
    check_host,
    install,
    installed,
    locked,
    programs_of,
    superfluous,
)

DOCUMENTATION = r"""
module: part
short_description: Give a host its third-party programs
version_added: "0.1.0"
description:
  - The control node takes each program out of the file that its pin names, fetched once and checked by SHA-256. It is
    sent only to hosts that lack it, checked there again, and put in its place once it was seen to start.
  - Of each program's old versions only the newest stays.
  - Needs nothing on the host but Python 3.9 with its standard library.
options:
  directory:
    description: Where programs lie on the host; logical hosts of one machine share it.
    type: path
    required: true
  names:
    description: The programs that the host shall have.
    type: list
    elements: str
    required: true
  pins:
    description: What the programs are pinned to, by name. Stays on the control node.
    type: dict
    default: {}
  fetched_dir:
    description: Where the control node keeps what it fetched. Stays there.
    type: str
    default: ""
  start:
    description: Whether a program must be seen to start before it is installed; not where it runs in containers only.
    type: bool
    default: true
  library_dir:
    description: Where the programs' services find libraries besides the system's.
    type: str
    default: ""
  host:
    description: The host's name, for messages.
    type: str
    required: true
  programs:
    description: What the action found out about them. Not for playbooks.
    type: list
    elements: dict
    default: []
  shipped:
    description: Where the action put them on the host. Not for playbooks.
    type: dict
    default: {}
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Install Scaphandre
  part:
    directory: /opt/icosfl/parts
    names: [scaphandre]
    pins: "{{ pins }}"
    fetched_dir: /home/operator/icosfl/.state/parts
    host: "{{ inventory_hostname }}"
"""

RETURN = r"""
lacking:
  description: The programs that the host lacked or had otherwise.
  returned: always
  type: list
  elements: str
deleted:
  description: The directories of old versions that were deleted.
  returned: always
  type: list
  elements: str
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "required": True},
    "names": {"type": "list", "elements": "str", "required": True},
    "pins": {"type": "dict", "default": {}},
    "fetched_dir": {"type": "str", "default": ""},
    "start": {"type": "bool", "default": True},
    "library_dir": {"type": "str", "default": ""},
    "host": {"type": "str", "required": True},
    "programs": {"type": "list", "elements": "dict", "default": []},
    "shipped": {"type": "dict", "default": {}},
}


def make_present(wanted: dict[str, Any], check: bool) -> dict[str, Any]:
    """Install what is lacking and was shipped, and delete old versions; else say what is lacking."""
    directory, programs = Path(wanted["directory"]), programs_of(wanted["programs"])
    for program in programs:
        check_host(program)
    lacking = [program for program in programs if not installed(program, directory)]
    unshipped = [program for program in lacking if program.name not in wanted["shipped"]]
    old = [path for program in programs for path in superfluous(program, directory)]
    result = {"lacking": [program.name for program in lacking], "deleted": [str(path) for path in old]}
    if check or unshipped or not (lacking or old):
        return {"changed": bool(lacking or old) and (check or not unshipped), **result}
    with locked(directory):
        for program in lacking:
            if not installed(program, directory):  # another logical host of this machine may have been faster
                shipped, libraries = Path(wanted["shipped"][program.name]), wanted["library_dir"]
                install(program, shipped, directory, start=wanted["start"], library_dir=libraries)
        old = [path for program in programs for path in superfluous(program, directory)]
        for path in old:
            shutil.rmtree(path)
    return {"changed": True, **result, "deleted": [str(path) for path in old]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)  # the services' user runs them
    wanted = module.params
    try:
        result = make_present(wanted, module.check_mode)
    except PartRefused as error:
        module.fail_json(msg=f"{wanted['host']}: {error.cause}. Cure: {error.cure}")
    except OSError as error:
        module.fail_json(msg=f"{wanted['host']}: {error}. Cure: look at the disk and its permissions, then run again")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
