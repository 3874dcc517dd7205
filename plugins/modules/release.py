#!/usr/bin/python
"""Ansible's door to icosfl.fleet.bundle_install: the one call a host that makes a release its current one.

The action of the same name runs on the control node and ships the bundle when this module says that the host lacks it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible.module_utils.bundle_archive import BundleRefused  # type: ignore[import-not-found]
from ansible.module_utils.bundle_install import (  # type: ignore[import-not-found]
    check_host,
    current,
    delete,
    install,
    installed,
    locked,
    superfluous,
    switch,
    uninstall,
    users,
)

DOCUMENTATION = r"""
module: release
short_description: Install a release from its bundle, and let the host's services start from it
version_added: "0.1.0"
description:
  - Checks every file of the bundle by SHA-256, makes the release's own environment without any network, proves that all
    of it can be loaded, and switches C(current) in one step. Whatever kills it is cured by another run.
  - The bundle is sent only to hosts that lack the release. One call is enough for a host that has it.
  - Needs nothing on the host but Python 3.9 with its standard library.
options:
  install_dir:
    description: Where releases lie; logical hosts of one machine share it.
    type: path
    required: true
  id:
    description: The release. One that is installed already is switched to without a bundle.
    type: str
  bundle:
    description: The bundle on the control node; empty where there is none.
    type: str
    default: ""
  sha256:
    description: The digest of the bundle's manifest.
    type: str
    default: ""
  target:
    description: The hosts that the bundle is for.
    type: dict
    default: {}
  needs_bytes:
    description: Free disk that installing takes.
    type: int
    default: 0
  public_key:
    description: Whose signature bundles must bear, 32 bytes in base64; empty for nobody's.
    type: str
    default: ""
  keep:
    description: How many releases stay installed.
    type: int
    default: 2
  host:
    description: The host's name, for messages.
    type: str
    required: true
  state:
    description: V(absent) removes all releases, unless other logical hosts of the machine use them.
    type: str
    choices: [present, absent]
    default: present
  shipped:
    description: Where the action put the bundle on the host. Not for playbooks.
    type: str
    default: ""
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Install the release
  release:
    install_dir: /opt/icosfl
    id: "{{ built.id }}"
    bundle: "{{ built.path }}"
    sha256: "{{ built.sha256 }}"
    target: "{{ built.target }}"
    needs_bytes: "{{ built.needs_bytes }}"
    host: "{{ inventory_hostname }}"
"""

RETURN = r"""
id:
  description: The release that services start from.
  returned: always
  type: str
previous:
  description: The release that they started from before.
  returned: always
  type: str
installed:
  description: The releases that the host has, the newest first.
  returned: always
  type: list
  elements: str
deleted:
  description: The releases that were deleted to save disk.
  returned: when state is present
  type: list
  elements: str
lacking:
  description: Whether the host needs the bundle.
  returned: when state is present
  type: bool
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "install_dir": {"type": "path", "required": True},
    "id": {"type": "str"},
    "bundle": {"type": "str", "default": ""},
    "sha256": {"type": "str", "default": ""},
    "target": {"type": "dict", "default": {}},
    "needs_bytes": {"type": "int", "default": 0},
    "public_key": {"type": "str", "default": ""},
    "keep": {"type": "int", "default": 2},
    "host": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "shipped": {"type": "str", "default": ""},
}


def make_present(wanted: dict[str, Any], check: bool) -> dict[str, Any]:
    """Switch to the release if it is installed or its bundle is here; else say that it is lacking."""
    directory, release = Path(wanted["install_dir"]), wanted["id"]
    before = current(directory)
    if release not in installed(directory):
        if wanted["target"]:
            check_host(wanted["target"], wanted["needs_bytes"], directory)
        if not wanted["shipped"]:
            return {"changed": check, "lacking": True, **_found(directory, before)}
    elif release == before and not superfluous(directory, wanted["keep"]):
        return {"changed": False, "lacking": False, "deleted": [], **_found(directory, before)}
    if check:
        return {"changed": True, "lacking": False, "deleted": [], **_found(directory, before)}
    with locked(directory):
        if release not in installed(directory):  # another logical host of this machine may have been faster
            install(Path(wanted["shipped"]), directory, public_key=wanted["public_key"], sha256=wanted["sha256"])
        if current(directory) != release:
            switch(directory, release)
        deleted = superfluous(directory, wanted["keep"])
        for each in deleted:
            delete(directory, each)
    return {"changed": True, "lacking": False, "deleted": list(deleted), **_found(directory, before)}


def make_absent(directory: Path, check: bool) -> dict[str, Any]:
    """Remove all releases, unless somebody else on this machine uses them."""
    before = current(directory)
    found = _found(directory, before)
    if not directory.exists() or users(directory):
        return {"changed": False, **found}
    if not check:
        with locked(directory):
            uninstall(directory)
    return {"changed": True, **found}


def _found(directory: Path, before: str) -> dict[str, Any]:
    return {"id": current(directory), "previous": before, "installed": list(installed(directory))}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS, supports_check_mode=True, required_if=[("state", "present", ["id"])]
    )
    os.umask(0o022)  # the services' user reads releases
    wanted = module.params
    try:
        if wanted["state"] == "absent":
            result = make_absent(Path(wanted["install_dir"]), module.check_mode)
        else:
            result = make_present(wanted, module.check_mode)
    except BundleRefused as error:
        module.fail_json(msg=f"{wanted['host']}: {error.cause}. Cure: {error.cure}")
    except OSError as error:
        module.fail_json(msg=f"{wanted['host']}: {error}. Cure: look at the disk and its permissions, then run again")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
