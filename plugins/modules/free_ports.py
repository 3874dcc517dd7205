#!/usr/bin/python
"""Ansible's door to icosfl.fleet.ports: refuses ports that a stranger listens on."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: free_ports
short_description: Refuse ports that a foreign process listens on
version_added: "0.1.0"
description:
  - Fails when any of O(ports) is listened on by a process that does not belong to the services of O(root), and names
    all of them with their process and command line. Changes nothing, in check mode neither.
requirements:
  - icosfl, in the Python that runs the module
options:
  root:
    description: The host's directory; it need not exist.
    type: path
    required: true
  ports:
    description: The ports that the host's services need, by name.
    type: dict
    required: true
  host:
    description: What to call the host in messages.
    type: str
"""

EXAMPLES = r"""
- name: preflight | Refuse ports that others use
  free_ports:
    root: /srv/icosfl/edge-01
    ports: {host_metrics: "{{ host_metrics_port }}", otlp: "{{ otlp_bridge_listen_port }}"}
"""

RETURN = r"""
used:
  description: Ports that services of O(root) listen on already.
  type: list
  elements: int
  returned: success
"""

ARGUMENTS = {
    "root": {"type": "path", "required": True},
    "ports": {"type": "dict", "required": True},
    "host": {"type": "str"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    try:
        from icosfl.errors import IcosflError  # the failure must be a result, not a stack trace
    except ImportError:
        module.fail_json(msg=f"{missing_required_lib('icosfl')} Cure: set ansible_python_interpreter to icosfl_python")
    arguments: dict[str, Any] = module.params
    try:
        used = run(arguments)
    except IcosflError as error:
        module.fail_json(
            msg=f"{arguments['host'] or arguments['root']}: {error.message}. Cure: {error.cure}".removesuffix(
                ". Cure: "
            )
        )
    module.exit_json(changed=False, used=used)


def run(arguments: dict[str, Any]) -> list[int]:
    """Return the ports that the host's own services use already, or raise when a stranger uses one."""
    from icosfl.fleet.definition import Layout  # only now known to be there
    from icosfl.fleet.ports import Family, refuse_foreign
    from icosfl.fleet.service import ports_of
    from icosfl.fleet.supervisor import running_pid

    layout = Layout.at(arguments["root"])
    taken = refuse_foreign(ports_of(arguments["ports"]), Family(layout, running_pid(layout)))
    return sorted(listener.port for listener in taken)


if __name__ == "__main__":
    main()
