#!/usr/bin/python
"""Ansible's door to icosfl.fleet.hops."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: hop
short_description: Prove the hops of the data's way by asking the services themselves
description:
  - Asks each question until it is answered well or the time is over; the answers are lines in C(msg).
  - Changes nothing. In check mode nothing is asked, for the services may not be there yet.
  - Needs the locked Python environment on the host.
options:
  questions:
    description: The questions, all of one host.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What is asked, for the answer's line.
        type: str
        required: true
      kind:
        description: The question.
        type: str
        required: true
        choices: [redis, grpc, tcp, http, page, rows, supernodes, proxy, schedule]
      address:
        description: Host and port of the service (redis, grpc, tcp, http, proxy).
        type: str
      url:
        description: The page to read (page, rows).
        type: str
      path:
        description: >-
          The path to get (http), a slash and the service to ask about (grpc), which may be none, or the state file of
          the service that trains by itself (schedule).
        type: str
        default: /
      metric:
        description: The metric that must be above 0 (page).
        type: str
      max_age_seconds:
        description: How old the newest row may be (rows), or the service's last look at its schedule (schedule).
        type: float
      home:
        description: Flower's home (supernodes).
        type: path
      connection:
        description: Flower's name of the SuperLink (supernodes).
        type: str
      wanted:
        description: How many SuperNodes must be online (supernodes).
        type: int
      alias:
        description: The name of the window in dataClay (proxy).
        type: str
      dataset:
        description: The alias's dataset in dataClay (proxy).
        type: str
      username:
        description: The account in dataClay (proxy).
        type: str
  host:
    description: What to call the host in messages.
    type: str
    required: true
  timeout_seconds:
    description: How long to ask all questions.
    type: float
    default: 30
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Ask Redis whether it answers
  hop:
    host: edge-01
    questions:
      - { name: redis, kind: redis, address: "127.0.0.1:1234" }
"""

RETURN = r"""
answers:
  description: A line for each question that was answered well.
  returned: always
  type: list
  elements: str
msg:
  description: The answers, or why there are none and what to do.
  returned: always
  type: str
"""

QUESTION = {
    "name": {"type": "str", "required": True},
    "kind": {
        "type": "str",
        "required": True,
        "choices": ["redis", "grpc", "tcp", "http", "page", "rows", "supernodes", "proxy", "schedule"],
    },
    "address": {"type": "str"},
    "url": {"type": "str"},
    "path": {"type": "str", "default": "/"},
    "metric": {"type": "str"},
    "max_age_seconds": {"type": "float"},
    "home": {"type": "path"},
    "connection": {"type": "str"},
    "wanted": {"type": "int"},
    "alias": {"type": "str"},
    "dataset": {"type": "str"},
    "username": {"type": "str"},
}
NEEDS = [
    ("kind", "redis", ["address"]),
    ("kind", "grpc", ["address"]),
    ("kind", "tcp", ["address"]),
    ("kind", "http", ["address"]),
    ("kind", "page", ["url", "metric"]),
    ("kind", "rows", ["url", "max_age_seconds"]),
    ("kind", "supernodes", ["home", "connection", "wanted"]),
    ("kind", "schedule", ["path", "max_age_seconds"]),
    ("kind", "proxy", ["address", "alias", "dataset", "username"]),
]


def main() -> None:
    """Ask, and exit with the answers or the reasons."""
    module = AnsibleModule(
        argument_spec={
            "questions": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": QUESTION,
                "required_if": NEEDS,
            },
            "host": {"type": "str", "required": True},
            "timeout_seconds": {"type": "float", "default": 30},
        },
        supports_check_mode=True,
    )
    host, questions = module.params["host"], module.params["questions"]
    if module.check_mode:
        module.exit_json(changed=False, answers=[], msg="not asked in check mode")
    try:
        from icosfl.fleet import hops  # the failure must be a result, not a stack trace
    except ImportError:
        module.fail_json(msg=f"{host}: {missing_required_lib('icosfl')}", cure="run site.yml first")

    answers, problems = hops.ask_all(questions, module.params["timeout_seconds"])
    if problems:
        words = "\n".join(f"{host}: {name}: {error.message}. Cure: {error.cure}" for name, error in problems)
        module.fail_json(msg=words, answers=answers)
    module.exit_json(changed=False, answers=answers, msg="\n".join(answers))


if __name__ == "__main__":
    main()
