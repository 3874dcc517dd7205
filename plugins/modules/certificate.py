#!/usr/bin/python
"""Documentation of the action `certificate`, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Sign a host's requests for certificates with the fleet's CA
description:
  - Runs on the control node without a connection. The CA is made when it is first asked for; its key never leaves the
    control node and may be encrypted with ansible-vault.
  - Signs when a service has no certificate, when its key, the CA or the names changed, when less than a third of the
    time is left, or when O(renew) says so. Else the present certificate is returned.
  - In check mode nothing is made or signed.
options:
  directory:
    description: The CA's directory on the control node.
    type: path
    required: true
  authority:
    description: The CA's name, when it is made. Required unless the host leaves.
    type: str
  host:
    description: The host's name in the inventory.
    type: str
    required: true
  services:
    description:
      - The services that serve TLS, and for each the further host names and addresses at which clients call it, beside
        the host's and loopback. Empty for a host that only needs the CA's certificate.
    type: dict
    default: {}
  days:
    description: How long a certificate holds, in days. Required unless the host leaves.
    type: float
  requests:
    description: The host's requests, by service.
    type: dict
    default: {}
  present:
    description: The certificates that the host has, by service.
    type: dict
    default: {}
  renew:
    description: Whether to sign in any case.
    type: bool
    default: false
  state:
    description: V(absent) drops the copies of what was signed for a host that leaves, and does nothing else.
    type: str
    choices: [present, absent]
    default: present
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Sign the SuperLink's certificate
  certificate:
    directory: /home/operator/.icosfl/pki
    authority: icosfl
    host: hub.example.com
    services: { superlink: [192.0.2.10] }
    days: 30
    requests: "{{ ansible_facts.identity.requests }}"
    present: "{{ ansible_facts.identity.certificates }}"
"""

RETURN = r"""
authority:
  description: The CA's certificate.
  returned: success
  type: str
certificates:
  description: The certificates that the host shall have, by service.
  returned: success
  type: dict
reasons:
  description: Why each was signed now; empty when the present one will do.
  returned: success
  type: dict
"""
