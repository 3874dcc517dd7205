#!/usr/bin/python
"""Documentation of the action `release_bundle`, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_bundle
short_description: Build the project's release bundle where it is not built yet
description:
  - Runs on the control node without a connection. An unchanged project gives the same release, and nothing is built.
options:
  project_dir:
    description: The project.
    type: path
    required: true
  directory:
    description: Where bundles lie on the control node.
    type: path
    required: true
  python_version:
    description: The Python's minor version, for the check that it is the control node's.
    type: str
  machine:
    description: The hosts' architecture, for the check that it is the control node's.
    type: str
  release:
    description: A release to find instead of the project's own; nothing is built.
    type: str
  extras:
    description: Which of the project's optional dependencies the release brings.
    type: list
    elements: str
  sign_key:
    description: The private key (Ed25519, PEM, mode 0600) to sign with.
    type: path
  public_key:
    description: The public key that hosts check signatures with, for the check that it belongs to O(sign_key).
    type: str
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Build the release
  release_bundle:
    project_dir: /srv/icosfl/project
    directory: /srv/icosfl/bundles
"""

RETURN = r"""
id:
  description: The release.
  returned: always
  type: str
path:
  description: The bundle; empty when O(release) is not on the control node.
  returned: always
  type: str
sha256:
  description: The digest of the bundle's manifest, which names every file by its own digest.
  returned: always
  type: str
target:
  description: The hosts that it is for.
  returned: always
  type: dict
needs_bytes:
  description: Free disk that a host needs to install it.
  returned: always
  type: int
signed:
  description: Whether it bears a signature.
  returned: always
  type: bool
"""
