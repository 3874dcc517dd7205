#!/usr/bin/python
"""Ansible's door to icosfl.fleet.hops."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: hop
short_description: Prove one hop of the data's way by asking the service itself
description:
  - Asks one service one question until it answers well or the time is over; the answer is a line in C(msg).
  - Changes nothing. In check mode nothing is asked, for the service may not be there yet.
  - Needs the locked Python environment on the host.
options:
  kind:
    description: The question.
    type: str
    required: true
    choices: [redis, grpc, tcp, http, page, rows, supernodes, proxy]
  address:
    description: Host and port of the service (redis, grpc, tcp, http, proxy).
    type: str
  url:
    description: The page to read (page, rows).
    type: str
  path:
    description: The path to get (http).
    type: str
    default: /
  metric:
    description: The metric that must be above 0 (page).
    type: str
  max_age_seconds:
    description: How old the newest row may be (rows).
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
  timeout_seconds:
    description: How long to ask.
    type: float
    default: 20
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Ask Redis whether it answers
  hop:
    kind: redis
    address: 127.0.0.1:1234
"""

RETURN = r"""
msg:
  description: The answer, or why there is none and what to do.
  returned: always
  type: str
"""


def main() -> None:
    """Ask, and exit with the answer or the reason."""
    module = AnsibleModule(
        argument_spec={
            "kind": {
                "type": "str",
                "required": True,
                "choices": ["redis", "grpc", "tcp", "http", "page", "rows", "supernodes", "proxy"],
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
            "timeout_seconds": {"type": "float", "default": 20},
        },
        required_if=[
            ("kind", "redis", ["address"]),
            ("kind", "grpc", ["address"]),
            ("kind", "tcp", ["address"]),
            ("kind", "http", ["address"]),
            ("kind", "page", ["url", "metric"]),
            ("kind", "rows", ["url", "max_age_seconds"]),
            ("kind", "supernodes", ["home", "connection", "wanted"]),
            ("kind", "proxy", ["address", "alias", "dataset", "username"]),
        ],
        supports_check_mode=True,
    )
    given = module.params
    if module.check_mode:
        module.exit_json(changed=False, msg="not asked in check mode")

    try:
        from icosfl.errors import IcosflError  # the failure must be a result, not a stack trace
        from icosfl.fleet import hops
    except ImportError:
        module.fail_json(msg=missing_required_lib("icosfl"), cure="run site.yml first")

    questions = {
        "page": lambda: hops.page_value(given["url"], given["metric"]),
        "rows": lambda: hops.fresh_rows(given["url"], given["max_age_seconds"]),
        "supernodes": lambda: hops.supernodes(Path(given["home"]), given["connection"], given["wanted"]),
        "proxy": lambda: hops.store_through_proxy(
            given["address"], given["alias"], given["dataset"], given["username"]
        ),
    }
    question = questions.get(given["kind"], lambda: hops.health(given["kind"], given["address"], given["path"]))
    try:
        module.exit_json(changed=False, msg=hops.ask(question, given["timeout_seconds"]))
    except IcosflError as error:
        module.fail_json(msg=str(error), cure=error.cure)


if __name__ == "__main__":
    main()
