#!/usr/bin/python
"""Ansible's door to icosfl.fleet.host_state: arguments in, result out, no logic."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: host_state
short_description: Make a host's directories, files and services what they are meant to be
version_added: "0.2.0"
description:
  - Makes directories and files, then brings services into a state, all in one call.
  - With O(runtime=supervisor) services run under a supervisord (PyPI) that lives under O(root), needs no root, and
    outlives the play. Several hosts may share a machine and a user, each with its own O(root).
  - With O(runtime=systemd) they are hardened units of the machine's systemd, and start with the machine.
  - With O(runtime=docker) they are hardened containers of the machine's Docker, described to Compose in
    V(docker/compose.yml) under O(root), on a network of their own; they start with the machine.
  - What another runtime has installed at O(root) is stopped and removed first; data stay.
  - Waits until every service that it starts works, by the service's own health check, and fails with the end of its
    log when it does not.
  - A service that runs by another definition than the one given keeps running with O(state=started); the result lists
    it in RV(outdated). Call the module with O(state=converged), from a handler, to restart it.
requirements:
  - icosfl, in the Python that runs the module
options:
  root:
    description:
      - The host's directory. All of O(directories) and O(files) lie below it. The process manager keeps what is its
        own in V(supervisor/) and V(log/), in V(systemd/), or in V(docker/).
    type: path
    required: true
  runtime:
    description: What runs the services.
    type: str
    choices: [supervisor, systemd, docker]
    default: supervisor
  image:
    description:
      - What services that name no image of their own run in with O(runtime=docker), V(sha256:…) or
        V(registry/name@sha256:…). It must be on the machine. Another one calls for a restart of those services.
    type: str
    default: ""
  user:
    description:
      - The system user of all services with O(runtime=systemd) and O(runtime=docker), where it is required. It owns the
        directories that are writable; everything else is root's, and readable for the user's group.
      - With O(runtime=supervisor) whoever runs the module owns everything.
    type: str
    default: ""
  unit_prefix:
    description:
      - How the names of this host's units or containers begin, and the name of its Compose project; hosts that share a
        machine each need their own.
    type: str
    default: icosfl
  limits:
    description:
      - What services may use of the machine, by the name of the service, with the keys V(memory_max_mb),
        V(cpu_quota_percent) (of one core), V(cpu_weight), V(io_weight) and V(tasks_max). They outweigh V(limits) of
        the description. Names of services that are not among O(services) are left alone.
      - Only O(runtime=systemd) and O(runtime=docker) enforce them. They change without a restart, but under Docker one
        that is lifted, or that the service exceeds already, calls for one.
    type: dict
    default: {}
  state:
    description:
      - V(started) makes directories and files, defines the services and starts those that do not run, in order of
        priority, each until it works. One that runs but does not work is restarted. Nothing is touched when a port that
        is needed is another's.
      - V(converged) restarts exactly those services of O(root) whose definition changed while they ran; takes no
        O(services).
      - V(stopped) stops services, and what runs them with the last one; their descriptions and logs stay. They do not
        start with the machine any more.
      - V(absent) stops services and removes what V(started) made for them; directories and files stay.
    type: str
    choices: [started, converged, stopped, absent]
    default: started
  directories:
    description:
      - V(path), and optionally V(mode) (a text, V("0700")) and V(writable) (by the services, true). Missing parents
        are made.
    type: list
    elements: dict
    default: []
  files:
    description:
      - V(path) and V(content), and optionally V(mode) (a text, V("0600")). Its directory must exist or be one of
        O(directories).
    type: list
    elements: dict
    default: []
  services:
    description:
      - Descriptions of services, with the keys V(name), V(command), V(health), V(stop_seconds), V(priority), and
        optionally V(description), V(environment), V(directory), V(files), V(ports), V(reads), V(writes), V(needs),
        V(sees_host), V(limits), V(publish), V(image).
      - V(health) has V(kind) (http, grpc, tcp, redis or process), V(timeout_seconds), and all but process V(host) and
        V(port); http may have V(path), grpc V(service).
      - A changed description, or changed contents of one of V(files), calls for a restart.
      - Under systemd a service sees nothing of O(root) but V(files) and V(reads), which it may read, and V(writes),
        which it may write; they are made when no role describes them. V(needs) names the services of O(root) that
        start before it. V(sees_host) lets it look at the whole machine.
      - In a container a service finds the same paths at the same places. It listens at its own name, in which V(_) is
        V(-), and finds the others of O(root) by theirs; the machine offers those of V(ports) that V(publish) names, at
        the addresses that it gives. V(image) is what it runs in; V(command) is all that runs there, whatever the
        image's entrypoint. With V(sees_host) it is on the machine's network, and the machine's V(/sys/class)
        is V(/host/sys/class).
      - With O(state=stopped) and O(state=absent) only the names count; without O(services) all services of O(root)
        are meant.
    type: list
    elements: dict
  restart_files:
    description:
      - Files whose change calls for a restart of every service, such as that of the installed release. With
        O(runtime=docker) they do not count, for there O(image) is the release.
    type: list
    elements: path
    default: []
  prune:
    description: Whether O(services) are all that the host shall have; what is installed besides is stopped and removed.
    type: bool
    default: false
  host:
    description: What to call the host in messages.
    type: str
"""

EXAMPLES = r"""
- name: Make the files and start the services
  host_state:
    root: /srv/icosfl/edge-01
    directories:
      - { path: /srv/icosfl/edge-01/etc, writable: false }
    files:
      - path: /srv/icosfl/edge-01/etc/collect.toml
        content: "{{ lookup('ansible.builtin.template', 'collect.toml.j2') }}"
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
  host_state:
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
  description: Services that were stopped; C(supervisord) or the host's C(.target) among them when all of it ended.
  type: list
  elements: str
  returned: success
removed:
  description: Services whose files were removed, and volumes and networks of Docker.
  type: list
  elements: str
  returned: success
outdated:
  description: Services that run by an older definition and await O(state=converged).
  type: list
  elements: str
  returned: success
written:
  description: Paths of the directories and files that were made or changed.
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
    "runtime": {"type": "str", "choices": ["supervisor", "systemd", "docker"], "default": "supervisor"},
    "image": {"type": "str", "default": ""},
    "user": {"type": "str", "default": ""},
    "unit_prefix": {"type": "str", "default": "icosfl"},
    "limits": {"type": "dict", "default": {}},
    "state": {"type": "str", "choices": ["started", "converged", "stopped", "absent"], "default": "started"},
    "directories": {"type": "list", "elements": "dict", "default": []},
    "files": {"type": "list", "elements": "dict", "default": []},
    "services": {"type": "list", "elements": "dict"},
    "restart_files": {"type": "list", "elements": "path", "default": []},
    "prune": {"type": "bool", "default": False},
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
    invocation = {"module_args": {name: arguments[name] for name in ("root", "runtime", "state", "host")}}
    try:
        from icosfl.fleet.host_state import bring  # only now known to be there

        outcome = bring(arguments, check=bool(module.check_mode), hide=module.no_log_values.update)
    except IcosflError as error:
        host = arguments["host"] or arguments["root"]
        module.fail_json(
            msg=f"{host}: {error.message}. Cure: {error.cure}".removesuffix(". Cure: "), invocation=invocation
        )
    module.exit_json(**outcome.result(), invocation=invocation)


if __name__ == "__main__":
    main()
