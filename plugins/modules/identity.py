#!/usr/bin/python
"""Ansible's door to icosfl.fleet.identity."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: identity
short_description: Make the private keys and secrets of a host, and tell what of them may travel
description:
  - Makes what is missing, each file for its reader only and whole or not at all. What is there stays.
  - Private keys and secrets are never returned; a request for a certificate and public keys are.
  - Runs in the release's Python on the host.
options:
  directory:
    description: Where the files lie.
    type: path
    required: true
  user:
    description: The system user whose services read the files; empty for whoever runs the module.
    type: str
    default: ""
  host:
    description: The host's name in the inventory.
    type: str
    required: true
  tls_keys:
    description: The files of the keys of services that serve TLS, by service.
    type: dict
    default: {}
  certificates:
    description: The files of those services' certificates, by service.
    type: dict
    default: {}
  node_keys:
    description: The files of the keys of the host's SuperNodes, in their order.
    type: list
    elements: str
    default: []
  secrets:
    description: The files of secrets between processes of the host.
    type: list
    elements: str
    default: []
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Have the host's keys
  identity:
    directory: /srv/icosfl/etc/pki
    host: edge-01
    node_keys: [/srv/icosfl/etc/pki/supernode.key]
"""

RETURN = r"""
made:
  description: The files that were made.
  returned: success
  type: list
ansible_facts:
  description: The fact C(identity), with C(requests) and C(certificates) by service, and C(public_keys).
  returned: success
  type: dict
"""


def main() -> None:
    """Make what is missing, and exit with what may travel."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "user": {"type": "str", "default": ""},
            "host": {"type": "str", "required": True},
            "tls_keys": {"type": "dict", "default": {}, "no_log": False},
            "certificates": {"type": "dict", "default": {}},
            "node_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "secrets": {"type": "list", "elements": "str", "default": [], "no_log": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        from icosfl.errors import IcosflError
        from icosfl.fleet.identity import Wanted, establish
    except ImportError:
        module.fail_json(msg=missing_required_lib("icosfl", reason="Cure: run site.yml first"))
    wanted = Wanted(
        directory=Path(given["directory"]),
        user=given["user"],
        name=given["host"],
        tls_keys=given["tls_keys"],
        certificates=given["certificates"],
        node_keys=given["node_keys"],
        secrets=given["secrets"],
    )
    try:
        found = establish(wanted, dry=module.check_mode)
    except IcosflError as error:
        module.fail_json(msg=f"{given['host']}: {error.message}. Cure: {error.cure}")
    facts = {"requests": found.requests, "certificates": found.certificates, "public_keys": found.public_keys}
    module.exit_json(changed=bool(found.made), made=found.made, ansible_facts={"identity": facts})


if __name__ == "__main__":
    main()
