"""What is in an image, as a CycloneDX document: Python, its packages with their wheels' digests, Debian's packages.

The lists are what the image was really made of: the bundle's manifest, and the package list of the base.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any
from urllib.parse import quote

from icosfl.fleet.bundle_archive import Manifest
from icosfl.fleet.bundle_plan import canonical
from icosfl.fleet.image_manifest import ImageManifest

LEFT_OUT = {"uv"}  # installs the rest and does not stay
_FIELD = re.compile(r"^(?P<name>[A-Za-z-]+):[ \t]*(?P<value>.*)$", re.M)


def sbom(image: ImageManifest, bundle: Manifest, dpkg_status: str, distribution: str) -> str:
    """Return the document, CycloneDX 1.6 in JSON.

    Args:
        image: The image.
        bundle: The manifest of the bundle that is in it.
        dpkg_status: The base's list of Debian packages, /var/lib/dpkg/status; "" for a base without one.
        distribution: The base's /etc/os-release id and version, such as "debian-12".
    """
    components = [*wheels(bundle), interpreter(bundle), *debian_packages(dpkg_status, distribution)]
    root = f"icosfl@{image.release}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, image.image)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": root,
                "name": "icosfl",
                "version": image.release,
                "purl": f"pkg:oci/icosfl@{quote(image.image, safe='')}?arch={image.architecture}",
                "properties": [
                    {"name": "io.icosfl:base", "value": image.base},
                    {"name": "io.icosfl:base-id", "value": image.base_id},
                    *({"name": "io.icosfl:layer", "value": layer} for layer in image.layers),
                ],
            }
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [each["bom-ref"] for each in components]}],
    }
    return json.dumps(document, indent=1) + "\n"


def wheels(bundle: Manifest) -> list[dict[str, Any]]:
    """Return a component for each wheel of a bundle, with the digest that it was installed by."""
    found = []
    for path, fact in sorted(bundle.files.items()):
        folder, _, name = path.partition("/")
        if folder != "wheelhouse" or not name.endswith(".whl"):
            continue
        project, version = name.split("-")[:2]
        if canonical(project) in LEFT_OUT:
            continue
        kind = "generic" if canonical(project).startswith("icosfl") else "pypi"
        purl = f"pkg:{kind}/{canonical(project)}@{quote(version, safe='')}"
        found.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": canonical(project),
                "version": version,
                "purl": purl,
                "hashes": [{"alg": "SHA-256", "content": fact.sha256}],
            }
        )
    return found


def interpreter(bundle: Manifest) -> dict[str, Any]:
    """Return the component of a bundle's own Python."""
    version = bundle.target["python"]
    program = f"python/bin/python{version.rpartition('.')[0]}"
    fact = bundle.files.get(program)
    hashes = [{"alg": "SHA-256", "content": fact.sha256}] if fact else []
    purl = f"pkg:generic/python@{version}"
    return {
        "type": "platform",
        "bom-ref": purl,
        "name": "python",
        "version": version,
        "purl": purl,
        **({"hashes": hashes} if hashes else {}),
    }


def debian_packages(dpkg_status: str, distribution: str) -> list[dict[str, Any]]:
    """Return a component for each installed package of a /var/lib/dpkg/status."""
    vendor = distribution.partition("-")[0] or "debian"
    found = {}
    for package in installed_packages(dpkg_status):
        name, version = package["Package"], package.get("Version", "")
        purl = (
            f"pkg:deb/{vendor}/{quote(name, safe='')}@{quote(version, safe='')}?arch={package.get('Architecture', '')}"
        )
        if distribution:
            purl += f"&distro={quote(distribution, safe='')}"
        found[purl] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return [found[purl] for purl in sorted(found)]


def installed_packages(dpkg_status: str) -> list[dict[str, str]]:
    """Return the fields of each installed package of a /var/lib/dpkg/status."""
    paragraphs = (
        {match["name"]: match["value"].strip() for match in _FIELD.finditer(text)} for text in dpkg_status.split("\n\n")
    )
    return [each for each in paragraphs if "Package" in each and each.get("Status", "").endswith(" installed")]


def distribution_of(os_release: str) -> str:
    """Return what /etc/os-release calls the base: "debian-12"; "" where it says nothing."""
    pairs = (line.partition("=") for line in os_release.splitlines())
    values = {name: value.strip().strip('"') for name, _, value in pairs}
    return "-".join(part for part in (values.get("ID", ""), values.get("VERSION_ID", "")) if part)
