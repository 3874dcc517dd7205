#!/usr/bin/python
"""Documentation of the action `host_preflight`, which runs on the control node and asks the host once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Refuse a host that cannot carry its services
version_added: "0.2.0"
description:
  - Asks the host once, over its connection and with its privilege escalation, what it is, and fails with every problem,
    each with its cure - it cannot be reached, its SSH host key changed, it refuses our key, sudo wants a password, its
    Python is missing, too old or none that the release is made for, architecture, C library, init system, memory, free
    disk, its clock, ports held by others than its own services; for V(docker) also the Engine.
  - Nothing is written on the host, in no case. A host that fails leaves the play; the others go on.
  - Also an unreachable host is a failure here, so that it counts for C(max_fail_percentage).
  - Takes C(ansible_python_interpreter), or C(/usr/bin/python3); at least Python 3.9.
options:
  runtime:
    description: How services are run.
    type: str
    choices: [supervisor, systemd, docker]
    required: true
  root:
    description: The directory under which everything of this logical host lies.
    type: path
    required: true
  unit_prefix:
    description: What its systemd units begin with.
    type: str
    required: true
  user:
    description: The system user of its services; empty for none. It need not exist.
    type: str
    required: true
  ports:
    description: The ports of its services, by service.
    type: dict
    required: true
  places:
    description:
      - Directories that will be filled, each with V(path), V(needed_mb) and optionally V(marker).
      - One that has its marker, or without a marker exists, is filled already and needs little more. Those of one file
        system count together. One that needs 0 MB is not looked at.
    type: list
    elements: dict
    required: true
  memory_mb:
    description: The least memory.
    type: int
    required: true
  pythons:
    description: Minor versions of Python that are well; none for any.
    type: list
    elements: str
    required: true
  architectures:
    description: Architectures that are well; none for any.
    type: list
    elements: str
    required: true
  glibc:
    description: The oldest version of the C library.
    type: str
    required: true
  clock_tolerance_seconds:
    description: How far the host's clock may be from the control node's. The time that the call takes does not count.
    type: float
    required: true
  docker:
    description: What its Docker must be; read when O(runtime=docker).
    type: dict
    suboptions:
      install:
        description: Whether it may be installed where it is missing.
        type: bool
        required: true
      distributions:
        description: Distributions on which we know how, such as V(debian 12).
        type: list
        elements: str
        required: true
      oldest:
        description: The oldest version of the Engine.
        type: str
        required: true
      image_mb:
        description: Megabytes of free disk that our image needs.
        type: int
        required: true
      plugin:
        description: Where Compose is linked as a plugin of the command docker.
        type: path
        required: true
      program:
        description: What it is linked to.
        type: path
        required: true
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: preflight | Refuse a host that cannot carry its services
  host_preflight:
    runtime: systemd
    root: /srv/icosfl/edge-01
    unit_prefix: icosfl
    user: icosfl
    ports: {host_metrics: "{{ host_metrics_port }}"}
    places: [{path: /srv/icosfl, marker: current, needed_mb: 3072}]
    memory_mb: 1024
    pythons: ["3.11", "3.13"]
    architectures: [x86_64]
    glibc: "2.28"
    clock_tolerance_seconds: 60
"""

RETURN = r"""
found:
  description:
    - What the host is - V(python), V(release) such as V(debian 12), V(architecture), V(glibc), V(systemd),
      V(memory_mb), V(places), V(listeners), V(user) (null when it is missing), V(uid) that we have there, V(time).
    - V(docker) has V(dockerd) and V(command), where these programs are; V(engine), V(api), V(architecture), V(compose),
      V(error), why it does not answer; V(storage), V(has_image); V(config), V(is_configured), V(mark), what we wrote in
      its configuration where we installed it; V(linked), whether our Compose is its plugin; our V(ports) and
      V(containers).
    - Also in C(ansible_facts.host_found).
  type: dict
  returned: success
msg:
  description: What is wrong, a line each - host, key, cause and cure.
  type: str
  returned: failure
"""
