#!/usr/bin/python
"""Ansible's door to icosfl.fleet.image_host: the one call a host that gives its Docker the images that services need.

The action of the same name runs on the control node, builds the image, and ships or pushes it when this module says
that the host lacks it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = r"""
module: container_image
short_description: Give a Docker host the image of our own, and the third-party images that are named
version_added: "0.4.0"
description:
  - The image is built once on the control node, from a release bundle and a base image, unless it is there.
  - A host that has it gets nothing. Others get it as an archive, once for a machine, or pull it by digest from
    O(registry), where the control node pushes it once.
  - What arrives is compared with what was built. Whatever fails leaves no image and no file behind.
  - Sets the fact RV(ansible_facts).
requirements:
  - icosfl, in the Python that runs the module
options:
  state:
    description:
      - V(built) has the image built on the control node, and asks no host.
      - V(absent) removes all images of ours that no container is made of.
    type: str
    choices: [present, built, absent]
    default: present
  release:
    description: The release that the image holds.
    type: str
    default: ""
  base:
    description: The base image, by name, best with its digest.
    type: str
    default: ""
  base_packages:
    description: Debian packages that the base must have; those that it lacks are installed in it, once.
    type: list
    elements: str
    default: []
  install_dir:
    description: Where the release lies in the image; where hosts have it too.
    type: path
    default: ""
  registry:
    description: A registry, and a path in it, that the control node pushes to and hosts pull from; empty for none.
    type: str
    default: ""
  pulled:
    description: Third-party images that services are made of, by name; those that are missing are pulled.
    type: list
    elements: str
    default: []
  keep:
    description: How many images of ours stay, besides those that containers are made of.
    type: int
    default: 2
  project_dir:
    description: The project on the control node.
    type: path
    default: ""
  bundles_dir:
    description: Where release bundles lie on the control node.
    type: path
    default: ""
  images_dir:
    description: Where images are kept on the control node.
    type: path
    default: ""
  public_key:
    description: Whose signature the bundle must bear; empty for nobody's.
    type: str
    default: ""
  host:
    description: The host's name, for messages.
    type: str
    required: true
  image:
    description: What the action knows of the image. Not for playbooks.
    type: dict
    default: {}
  shipped:
    description: Where the action put the archive on the host. Not for playbooks.
    type: str
    default: ""
  pushed:
    description: The name and digest that the action pushed. Not for playbooks.
    type: str
    default: ""
author: ["the icosfl developers (@icosfl)"]
"""

EXAMPLES = r"""
- name: Give the host the image
  container_image:
    release: "{{ ansible_facts.release.id }}"
    base: debian:bookworm-slim
    install_dir: /opt/icosfl
    project_dir: "{{ icosfl_project_dir }}"
    bundles_dir: "{{ icosfl_bundles_dir }}"
    images_dir: "{{ icosfl_images_dir }}"
    host: "{{ inventory_hostname }}"
"""

RETURN = r"""
ansible_facts:
  description: C(container_image) with C(reference), what containers are made of by digest, C(id) and C(release).
  returned: when state is present
  type: dict
lacking:
  description: Whether the host needs the image.
  returned: when state is present
  type: bool
fetched:
  description: The third-party images that were pulled.
  returned: when state is present
  type: list
  elements: str
removed:
  description: The images of ours that were removed, by id.
  returned: always
  type: list
  elements: str
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "built", "absent"], "default": "present"},
    "release": {"type": "str", "default": ""},
    "base": {"type": "str", "default": ""},
    "base_packages": {"type": "list", "elements": "str", "default": []},
    "install_dir": {"type": "path", "default": ""},
    "registry": {"type": "str", "default": ""},
    "pulled": {"type": "list", "elements": "str", "default": []},
    "keep": {"type": "int", "default": 2},
    "project_dir": {"type": "path", "default": ""},
    "bundles_dir": {"type": "path", "default": ""},
    "images_dir": {"type": "path", "default": ""},
    "public_key": {"type": "str", "default": ""},
    "host": {"type": "str", "required": True},
    "image": {"type": "dict", "default": {}},
    "shipped": {"type": "str", "default": ""},
    "pushed": {"type": "str", "default": ""},
}


def make_present(wanted: dict[str, Any], check: bool) -> dict[str, Any]:
    """Bring the image if its archive or its name in a registry is known, else say that it is lacking."""
    from icosfl.fleet import image_host
    from icosfl.fleet.engine import Engine

    engine = Engine()
    if check and not engine.answers():  # a rehearsal has installed and started none
        return {"changed": True, "lacking": True, "fetched": [], "removed": [], "id": "", "reference": ""}
    image = image_host.WantedImage(**{**wanted["image"], "layers": tuple(wanted["image"]["layers"])})
    missing = image_host.missing(engine, wanted["pulled"])
    found = image_host.find(engine, image)
    if found is None:
        image_host.check_host(engine, image)
    for name in () if check else missing:
        image_host.pull_by_name(engine, name)
    told: dict[str, Any] = {"changed": bool(missing), "fetched": list(missing), "removed": [], "lacking": False}
    if found is None and (check or not (wanted["shipped"] or wanted["pushed"])):
        return told | {"changed": check or bool(missing), "lacking": True, "id": "", "reference": ""}
    if found is None and wanted["pushed"]:
        found = image_host.pull(engine, image, wanted["pushed"])
        told["changed"] = True
    elif found is None:
        found = image_host.load(engine, image, Path(wanted["shipped"]))
        told["changed"] = True
    removed = image_host.superfluous(engine, image, wanted["keep"])
    if not check:
        image_host.remove(engine, removed)
    return told | {
        "changed": told["changed"] or bool(removed),
        "removed": list(removed),
        "id": str(found["Id"]),
        "reference": image_host.reference(found, image.name),
    }


def make_absent(check: bool) -> dict[str, Any]:
    """Remove all images of ours that no container is made of; a host without Docker has none."""
    from icosfl.errors import Unavailable
    from icosfl.fleet import image_host
    from icosfl.fleet.engine import Engine

    engine = Engine()
    try:
        unused = image_host.unused(engine, image_host.ours(engine))
    except Unavailable as error:
        return {"changed": False, "removed": [], "skipped_because": error.message}
    if not check:
        image_host.remove(engine, unused)
    return {"changed": bool(unused), "removed": list(unused)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        from icosfl.errors import IcosflError  # the failure must be a result, not a stack trace
    except ImportError:
        module.fail_json(msg=f"{missing_required_lib('icosfl')} Cure: set ansible_python_interpreter to icosfl_python")
    wanted = module.params
    try:
        if wanted["state"] == "absent":
            result = make_absent(module.check_mode)
        else:
            result = make_present(wanted, module.check_mode)
    except IcosflError as error:
        from icosfl.fleet.image_host import UnknownToRegistry

        module.fail_json(
            msg=f"{wanted['host']}: {error.message}. Cure: {error.cure}".removesuffix(". Cure: "),
            unknown=isinstance(error, UnknownToRegistry),
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
