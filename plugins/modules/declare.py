#!/usr/bin/python
"""Documentation of the action `declare`, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: declare
short_description: Note what a role wants of its host
description:
  - Runs on the control node without a connection and changes nothing. The role C(service) makes everything that a
    play's roles declared for a host in one call.
  - What is declared stands in C(ansible_facts.declared), by role; a second call for the same role and kind replaces
    the first.
options:
  role:
    description: The role that declares.
    type: str
    required: true
  directories:
    description: Directories of the host. Each has V(path), and optionally V(mode) and V(writable).
    type: list
    elements: dict
  files:
    description: Files of the host. Each has V(path) and V(content), and optionally V(mode).
    type: list
    elements: dict
  services:
    description: Descriptions of services, as the module C(host_state) explains them.
    type: list
    elements: dict
  questions:
    description: What to ask the services once they run, as the module C(hop) explains them.
    type: list
    elements: dict
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Ask for the directory of the data
  declare:
    role: redis
    directories: [{path: /srv/icosfl/data/redis}]
"""

RETURN = r"""
ansible_facts:
  description: What is declared for the host, by role and kind.
  returned: always
  type: dict
"""
