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
  - A run whose ServerApp dies is noticed at once, and goes on in another one.
requirements:
  - icosfl, in the Python that runs the module
options:
  step:
    description:
      - V(submit) checks that enough SuperNodes are online and submits the run, or goes on with an earlier one.
      - V(ready) waits until the nodes have been asked, V(round) until the average of O(round) is saved or no further
        rounds come, V(finish) until the model is handed out.
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
    description: The Flower app.
    type: path
    required: true
  nodes:
    description: How many SuperNodes should be online (V(submit)); after the timeout, as many as the run needs will do.
    type: int
  run_config:
    description: Single values that differ from the app's own run configuration (V(submit)).
    type: dict
    default: {}
  names_file:
    description: Names and keys of the SuperNodes, by which missing ones are told (V(submit)).
    type: path
  resume:
    description:
      - Which run to go on with (V(submit)), V(auto) for the newest if it was interrupted and had this configuration,
        V(newest) for the newest or else to fail, V(never), or the number of a run.
      - A run that is gone on with keeps its own configuration.
    type: str
    default: auto
  fresh:
    description: Go on with no run and from no model (V(submit)).
    type: bool
    default: false
  resumes:
    description: How many times in a row a run whose ServerApp died goes on, with no round between (all but V(submit)).
    type: int
    default: 3
  runs_dir:
    description: Where runs write their progress.
    type: path
    required: true
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
    runs_dir: /srv/icosfl/data/runs
    nodes: 2
    timeout_seconds: 60
"""

RETURN = r"""
line:
  description: What happened, for a person; several lines when there is more to tell.
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
round:
  description: The round after which the run goes on, 0 for its beginning (V(submit)); the round that was waited for.
  returned: when step is submit or round
  type: int
report:
  description: The run, the round and digest of its model, its validation skill, and where its report lies.
  returned: when step is finish
  type: dict
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "step": {"type": "str", "required": True, "choices": ["submit", "ready", "round", "finish"]},
    "flwr_home": {"type": "path", "required": True},
    "connection": {"type": "str", "required": True},
    "timeout_seconds": {"type": "float", "required": True},
    "app_dir": {"type": "path", "required": True},
    "nodes": {"type": "int"},
    "run_config": {"type": "dict", "default": {}},
    "names_file": {"type": "path"},
    "resume": {"type": "str", "default": "auto"},
    "fresh": {"type": "bool", "default": False},
    "resumes": {"type": "int", "default": 3},
    "runs_dir": {"type": "path", "required": True},
    "run_id": {"type": "str"},
    "round": {"type": "int"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        ARGUMENTS,
        required_if=[
            ("step", "submit", ("nodes",)),
            ("step", "ready", ("run_id",)),
            ("step", "round", ("run_id", "round")),
            ("step", "finish", ("run_id",)),
        ],
        supports_check_mode=True,
    )
    given = module.params
    submits = given["step"] == "submit"
    if module.check_mode:
        module.exit_json(changed=submits, line="not done in check mode", run_id="", round=0, rounds=0)
    try:
        from icosfl.errors import IcosflError
        from icosfl.fleet.rounds import answer
    except ImportError:
        module.fail_json(msg=missing_required_lib("icosfl", reason="Cure: run site.yml first"))
    try:
        result = answer(_submit(given) if submits else _await(given), module.warn)
    except IcosflError as error:
        module.fail_json(msg=f"{error.message}. Cure: {error.cure}".removesuffix(". Cure: "))
    line = "\n".join([*result.pop("told"), result["line"]])
    module.exit_json(changed=submits, **{**result, "line": line, "msg": result["line"]}, **_report(given, result))


def _report(given: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    if given["step"] != "finish":
        return {}
    told = {"run": result["run_id"], **{key: result[key] for key in ("round", "rounds", "digest", "skill", "epsilon")}}
    return {"report": {**told, "page": result.get("page", "")}}


def _submit(given: dict[str, Any]) -> list[str]:
    names = [] if given["names_file"] is None else [f"--names-file={given['names_file']}"]
    return [
        "submit",
        *_where(given),
        f"--expect-nodes={given['nodes']}",
        f"--resume={given['resume']}",
        *(["--fresh"] if given["fresh"] else []),
        *names,
        *(f"--config={key}={_toml(value)}" for key, value in given["run_config"].items()),
    ]


def _await(given: dict[str, Any]) -> list[str]:
    step = f"--round={given['round']}" if given["step"] == "round" else f"--{given['step']}"
    return ["await", *_where(given), f"--run-id={given['run_id']}", f"--resumes={given['resumes']}", step]


def _where(given: dict[str, Any]) -> list[str]:
    return [
        f"--connection={given['connection']}",
        f"--flwr-home={given['flwr_home']}",
        f"--timeout={given['timeout_seconds']}",
        f"--app={given['app_dir']}",
        f"--runs-dir={given['runs_dir']}",
    ]


def _toml(value: object) -> str:
    import tomli_w

    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


if __name__ == "__main__":
    main()
