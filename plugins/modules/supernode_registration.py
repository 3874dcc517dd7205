#!/usr/bin/python
"""Ansible's door to icosfl.fleet.registry."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: supernode_registration
short_description: Let exactly these SuperNodes of some hosts take part in the federation
description:
  - Runs on the controller, in the release's Python, once for all hosts of a play. Hosts that are not named stay as they
    are.
  - A key that the SuperLink does not know is registered. A key that a named host no longer has is unregistered, and
    Flower refuses it for ever.
options:
  flwr_home:
    description: Flower's home, with the connection in its configuration.
    type: path
    required: true
  connection:
    description: Flower's name of the SuperLink.
    type: str
    required: true
  names_file:
    description: Where names and keys are kept, for Flower lists keys without names.
    type: path
  nodes:
    description: By host, the public keys of its SuperNodes in their order; none for a host that leaves.
    type: dict
  drain_seconds:
    description: Instead of registering, wait so long for the end of the run that is under way; then go on.
    type: float
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Let a host's SuperNode take part
  supernode_registration:
    flwr_home: /srv/icosfl/data/superlink/flwr
    connection: fleet
    names_file: /srv/icosfl/data/superlink/supernodes.json
    nodes: {edge-01: ["{{ ansible_facts.identity.public_keys.0 }}"]}
"""

RETURN = r"""
registered:
  description: The names that were registered.
  returned: success
  type: list
unregistered:
  description: The names whose keys were unregistered.
  returned: success
  type: list
"""


def main() -> None:
    """Register and unregister, and exit with the names."""
    module = AnsibleModule(
        argument_spec={
            "flwr_home": {"type": "path", "required": True},
            "connection": {"type": "str", "required": True},
            "names_file": {"type": "path"},
            "nodes": {"type": "dict"},
            "drain_seconds": {"type": "float"},
        },
        required_one_of=[("nodes", "drain_seconds")],
        required_by={"nodes": "names_file"},
        supports_check_mode=True,
    )
    given = module.params
    try:
        from icosfl.errors import IcosflError, Unavailable, UserError
        from icosfl.fleet.flower import Flower
        from icosfl.fleet.registry import carry_out, drain
    except ImportError:
        module.fail_json(msg=missing_required_lib("icosfl", reason="Cure: run site.yml first"))
    flower = Flower(Path(given["flwr_home"]), given["connection"])
    try:
        if given["drain_seconds"] is not None:
            said = "not waited in check mode" if module.check_mode else drain(flower, given["drain_seconds"])
            module.exit_json(changed=False, registered=[], unregistered=[], msg=said)
        done = carry_out(flower, Path(given["names_file"]), given["nodes"], dry=module.check_mode)
    except (Unavailable, UserError) as error:
        if module.check_mode:  # the SuperLink may be what a real run would start
            module.exit_json(changed=True, registered=sorted(given["nodes"] or {}), unregistered=[], msg=str(error))
        module.fail_json(msg=f"{error.message}. Cure: {error.cure}")
    except IcosflError as error:
        module.fail_json(msg=f"{error.message}. Cure: {error.cure}")
    module.exit_json(changed=not done.empty, registered=sorted(done.register), unregistered=sorted(done.unregister))


if __name__ == "__main__":
    main()
