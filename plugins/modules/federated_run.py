#!/usr/bin/python
"""Ansible's door to icosfl.fleet.rounds: submits a federated run, or waits for one step of it."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib  # type: ignore[import-untyped]

DOCUMENTATION = r"""
module: federated_run
short_description: Submit a federated run to the SuperLink of this host, or wait for a step of it
version_added: "0.1.0"
description:
  - Runs on the controller, in the locked Python environment.
  - Waiting is bounded, and fails with the run's own reason when the run does.
requirements:
  - icosfl, in the Python that runs the module
options:
  step:
    description:
      - V(submit) checks that enough SuperNodes are online and submits the run.
      - V(ready) waits until the nodes have been asked, V(round) until the average of O(round) is saved, V(finish) until
        the model is handed out.
    type: str
    required: true
    choices: [submit, ready, round, finish]
  flwr_home:
    description: Flower's home, with the connection in its configuration.
    type: path
    required: true
  connection:
    description: Flower's name of the SuperLink.
    type: str
    required: true
  timeout_seconds:
    description: How long to wait for SuperNodes (V(submit)) or for the step.
    type: float
    required: true
  app_dir:
    description: The Flower app (V(submit)).
    type: path
  nodes:
    description: How many SuperNodes should be online (V(submit)); after the timeout, as many as the run needs will do.
    type: int
  run_config:
    description: Single values that differ from the app's own run configuration (V(submit)).
    type: dict
    default: {}
  runs_dir:
    description: Where runs write their progress (all but V(submit)).
    type: path
  run_id:
    description: The run (all but V(submit)).
    type: str
  round:
    description: The round to wait for.
    type: int
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Submit the run
  federated_run:
    step: submit
    flwr_home: /srv/icosfl/data/superlink/flwr
    connection: fleet
    app_dir: /srv/icosfl/project
    nodes: 2
    timeout_seconds: 60
"""

RETURN = r"""
line:
  description: What happened, for a person.
  returned: success
  type: str
run_id:
  description: The run.
  returned: success
  type: str
rounds:
  description: How many rounds the run has.
  returned: when step is submit
  type: int
"""

STEP = ("runs_dir", "run_id")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "step": {"type": "str", "required": True, "choices": ["submit", "ready", "round", "finish"]},
    "flwr_home": {"type": "path", "required": True},
    "connection": {"type": "str", "required": True},
    "timeout_seconds": {"type": "float", "required": True},
    "app_dir": {"type": "path"},
    "nodes": {"type": "int"},
    "run_config": {"type": "dict", "default": {}},
    "runs_dir": {"type": "path"},
    "run_id": {"type": "str"},
    "round": {"type": "int"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        ARGUMENTS,
        required_if=[
            ("step", "submit", ("app_dir", "nodes")),
            ("step", "ready", STEP),
            ("step", "round", (*STEP, "round")),
            ("step", "finish", STEP),
        ],
        supports_check_mode=True,
    )
    given = module.params
    submits = given["step"] == "submit"
    if module.check_mode:
        module.exit_json(changed=submits, line="not done in check mode", run_id="", rounds=0)
    try:
        from icosfl.errors import IcosflError
        from icosfl.fleet.rounds import answer
    except ImportError:
        module.fail_json(msg=missing_required_lib("icosfl", reason="Cure: run site.yml first"))
    try:
        result = answer(_submit(given) if submits else _await(given))
    except IcosflError as error:
        module.fail_json(msg=f"{error.message}. Cure: {error.cure}".removesuffix(". Cure: "))
    module.exit_json(changed=submits, msg=result["line"], **result)


def _submit(given: dict[str, Any]) -> list[str]:
    values = [f"--config={key}={_toml(value)}" for key, value in given["run_config"].items()]
    return [
        "submit",
        *_where(given),
        f"--app={given['app_dir']}",
        f"--expect-nodes={given['nodes']}",
        *values,
    ]


def _await(given: dict[str, Any]) -> list[str]:
    step = f"--round={given['round']}" if given["step"] == "round" else f"--{given['step']}"
    return ["await", *_where(given), f"--runs-dir={given['runs_dir']}", f"--run-id={given['run_id']}", step]


def _where(given: dict[str, Any]) -> list[str]:
    return [
        f"--connection={given['connection']}",
        f"--flwr-home={given['flwr_home']}",
        f"--timeout={given['timeout_seconds']}",
    ]


def _toml(value: object) -> str:
    import tomli_w

    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


if __name__ == "__main__":
    main()
