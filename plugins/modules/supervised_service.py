#!/usr/bin/python
"""Ansible's door to icosfl.fleet.supervised: arguments in, result out, no logic."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: supervised_service
short_description: Run services of a host with its own supervisord
version_added: "0.1.0"
description:
  - Brings services into a state with a supervisord (PyPI) that lives under O(root), needs no root, and outlives the
    play.
  - Several hosts may share a machine and a user, each with its own O(root).
  - Waits until every service that it starts works, by the service's own health check, and fails with the end of its
    log when it does not.
  - A service that runs by another definition than the one given keeps running with O(state=started); the result lists
    it in RV(outdated). Call the module with O(state=converged), from a handler, to restart it.
requirements:
  - icosfl, in the Python that runs the module
options:
  root:
    description: The host's directory. V(supervisor/) and V(log/) are made below it.
    type: path
    required: true
  state:
    description:
      - V(started) defines the services and starts those that do not run, in order of priority, each until it works.
        One that runs but does not work is restarted. Nothing is started when a port that is needed is another's.
      - V(converged) restarts exactly those services of O(root) whose definition changed while they ran; takes no
        O(services).
      - V(stopped) stops services, and supervisord with the last one; their descriptions and logs stay.
      - V(absent) stops services and removes what V(started) made for them.
    type: str
    choices: [started, converged, stopped, absent]
    default: started
  services:
    description:
      - Descriptions of services, with the keys V(name), V(command), V(health), V(stop_seconds), V(priority), and
        optionally V(description), V(environment), V(directory), V(files), V(ports), V(memory_limit_mb).
      - V(health) has V(kind) (http, grpc, tcp, redis or process), V(timeout_seconds), and all but process V(host) and
        V(port); http may have V(path), grpc V(service).
      - A changed description, or changed contents of one of V(files), calls for a restart.
      - With O(state=stopped) and O(state=absent) only the names count; without O(services) all services of O(root)
        are meant.
    type: list
    elements: dict
  host:
    description: What to call the host in messages.
    type: str
"""

EXAMPLES = r"""
- name: Start the services
  supervised_service:
    root: /srv/icosfl/edge-01
    services:
      - name: host_metrics
        command: [/srv/icosfl/venv/bin/python, -m, icosfl.collect, --config, /srv/icosfl/edge-01/etc/collect.toml]
        files: [/srv/icosfl/edge-01/etc/collect.toml]
        ports: {host_metrics: "{{ host_metrics_port }}"}
        health: {kind: http, host: 127.0.0.1, port: "{{ host_metrics_port }}", path: /metrics, timeout_seconds: 30}
        stop_seconds: 10
        priority: 40
  notify: Restart changed services

- name: Stop everything of this host
  supervised_service:
    root: /srv/icosfl/edge-01
    state: stopped
"""

RETURN = r"""
started:
  description: Services that did not run and were started.
  type: list
  elements: str
  returned: success
restarted:
  description: Services that ran by an older definition, or did not work, and were restarted.
  type: list
  elements: str
  returned: success
stopped:
  description: Services that were stopped; C(supervisord) among them when it ended, too.
  type: list
  elements: str
  returned: success
removed:
  description: Services whose files were removed.
  type: list
  elements: str
  returned: success
outdated:
  description: Services that run by an older definition and await O(state=converged).
  type: list
  elements: str
  returned: success
services:
  description: Name, state, pid and uptime in seconds of the services asked for, as far as they run.
  type: list
  elements: dict
  returned: success
"""

ARGUMENTS = {
    "root": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["started", "converged", "stopped", "absent"], "default": "started"},
    "services": {"type": "list", "elements": "dict"},
    "host": {"type": "str"},
}


def main() -> None:
    """Run the module."""
    # no_log: descriptions may hold secrets, so nothing of the call goes to the system's log.
    module = AnsibleModule(
        ARGUMENTS, supports_check_mode=True, no_log=True, required_if=[("state", "started", ["services"])]
    )
    try:
        from icosfl.errors import IcosflError  # the failure must be a result, not a stack trace
    except ImportError:
        module.fail_json(msg=f"{missing_required_lib('icosfl')} Cure: set ansible_python_interpreter to icosfl_python")
    arguments: dict[str, Any] = module.params
    invocation = {"module_args": {name: arguments[name] for name in ("root", "state", "host")}}
    try:
        result = run(module, arguments)
    except IcosflError as error:
        host = arguments["host"] or arguments["root"]
        module.fail_json(
            msg=f"{host}: {error.message}. Cure: {error.cure}".removesuffix(". Cure: "), invocation=invocation
        )
    module.exit_json(**result, invocation=invocation)


def run(module: AnsibleModule, arguments: dict[str, Any]) -> dict[str, Any]:
    """Do what the arguments ask for and return the result."""
    from icosfl.fleet import supervised  # only now known to be there
    from icosfl.fleet.definition import Layout, secrets_of
    from icosfl.fleet.files import Plan
    from icosfl.fleet.service import services_of

    layout, state, check = Layout.at(arguments["root"]), arguments["state"], bool(module.check_mode)
    if state == "started":
        services = services_of(arguments["services"])
        module.no_log_values.update(secrets_of(services))
        outcome = supervised.start(layout, services, Plan(arguments["root"]), check=check)
    elif state == "converged":
        module.no_log_values.update(secrets_of(layout.installed()))
        outcome = supervised.converge(layout, check=check)
    else:
        asked = arguments["services"]
        names = None if asked is None else [str(service.get("name")) for service in asked]
        outcome = supervised.stop(layout, names, remove=state == "absent", check=check)
    return {
        "changed": outcome.changed,
        "started": list(outcome.started),
        "restarted": list(outcome.restarted),
        "stopped": list(outcome.stopped),
        "removed": list(outcome.removed),
        "outdated": list(outcome.outdated),
        "services": [
            {"name": each.name, "state": each.state, "pid": each.pid, "uptime_seconds": each.uptime_seconds}
            for each in outcome.statuses
        ],
        "diff": [
            {"before_header": each.path, "after_header": each.path, "before": each.before, "after": each.after}
            for each in outcome.rewritten
        ],
    }


if __name__ == "__main__":
    main()
