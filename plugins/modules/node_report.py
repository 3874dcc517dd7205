#!/usr/bin/python
"""Ansible's door to icosfl.fleet.report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: node_report
short_description: Ask a host for a report of itself
description:
  - Asks the host's process manager, the services by their health checks, the forecast service and the store, whatever
    O(pages) name, in one call. Changes nothing, in check mode neither.
requirements:
  - icosfl, in the Python that runs the module
options:
  place:
    description: The host, by the fields of C(icosfl.fleet.place.Place).
    type: dict
    required: true
  pages:
    description: What is asked.
    type: list
    elements: str
    choices: [status, outlook, reading]
    default: [status]
  planned:
    description: The names of the services that the host is meant to have; a missing one is told.
    type: list
    elements: str
    default: []
  app_dir:
    description: The Flower app, whose run configuration says how many rows training needs.
    type: path
    required: true
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Ask the host for a report of itself
  node_report:
    app_dir: /srv/icosfl/project
    place:
      name: edge-01
      groups: [workers]
      runtime: supervisor
      unit_prefix: icosfl
      root: /srv/icosfl/edge-01
      listen: 127.0.0.1
      forecast_port: "{{ icosfl_host_ports.forecast }}"
      training: {}
      node: "{{ icosfl_node }}"
"""

RETURN = r"""
report:
  description: Each page that was asked for, by its name; the others are null.
  returned: success
  type: dict
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "place": {"type": "dict", "required": True},
    "pages": {
        "type": "list",
        "elements": "str",
        "choices": ["status", "outlook", "reading"],
        "default": ["status"],
    },
    "planned": {"type": "list", "elements": "str", "default": []},
    "app_dir": {"type": "path", "required": True},
}


def main() -> None:
    """Ask, and exit with the report."""
    # no_log: the host's description may hold secrets, so nothing of the call goes to the system's log.
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True, no_log=True)
    given = module.params
    invocation = {"module_args": {"pages": given["pages"]}}
    try:
        from icosfl.errors import IcosflError  # the failure must be a result, not a stack trace
    except ImportError:
        module.fail_json(msg=missing_required_lib("icosfl"), cure="icosfl up", invocation=invocation)
    try:
        report = run(given)
    except IcosflError as error:
        module.fail_json(msg=error.message, cure=error.cure, invocation=invocation)
    except (ImportError, TypeError) as error:  # another release than this module's
        module.fail_json(
            msg=f"the host's release does not know this question: {error}", cure="icosfl up", invocation=invocation
        )
    module.exit_json(changed=False, report=report, invocation=invocation)


def run(given: dict[str, Any]) -> Any:
    """Return the report that the arguments ask for."""
    from icosfl.fleet.place import read_place  # only now known to be there
    from icosfl.fleet.report import OTHER_RELEASE, make, to_plain

    place = read_place(given["place"], OTHER_RELEASE)
    return to_plain(make(place, given["pages"], given["planned"], Path(given["app_dir"])))


if __name__ == "__main__":
    main()
