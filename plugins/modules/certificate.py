#!/usr/bin/python
"""Documentation of the action `certificate`, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Sign a host's request for a certificate with the fleet's CA
description:
  - Runs on the control node without a connection. The CA is made when it is first asked for; its key never leaves the
    control node and may be encrypted with ansible-vault.
  - Signs when there is no certificate, when the host's key, the CA or the names changed, when less than a third of the
    time is left, or when O(renew) says so. Else the present certificate is returned.
  - In check mode nothing is made or signed.
options:
  directory:
    description: The CA's directory on the control node.
    type: path
    required: true
  authority:
    description: The CA's name, when it is made.
    type: str
    required: true
  host:
    description: The host's name in the inventory.
    type: str
    required: true
  service:
    description: The service that serves TLS; empty for a host that only needs the CA's certificate.
    type: str
    default: ""
  names:
    description: Further host names and addresses at which clients call the service, beside the host's and loopback.
    type: list
    elements: str
    default: []
  days:
    description: How long a certificate holds.
    type: float
    required: true
  request:
    description: The host's request.
    type: str
    default: ""
  present:
    description: The certificate that the host has.
    type: str
    default: ""
  renew:
    description: Whether to sign in any case.
    type: bool
    default: false
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Sign the SuperLink's certificate
  certificate:
    directory: /home/operator/.icosfl/pki
    authority: icosfl
    host: hub.example.com
    service: superlink
    days: 30
    request: "{{ ansible_facts.identity.request }}"
    present: "{{ ansible_facts.identity.certificate }}"
"""

RETURN = r"""
authority:
  description: The CA's certificate.
  returned: success
  type: str
certificate:
  description: The certificate that the host shall have.
  returned: success
  type: str
reason:
  description: Why it was signed now; empty when the present one will do.
  returned: success
  type: str
"""
