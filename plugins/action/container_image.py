"""Has the image built on the control node, asks a host for it in one call, and brings it only to one that lacks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

from icosfl.errors import IcosflError, UserError
from icosfl.fleet import image_files, image_registry
from icosfl.fleet.engine import Engine
from icosfl.fleet.image import Wanted, ensure, found
from icosfl.fleet.image_files import BuiltImage
from icosfl.fleet.turns import one_at_a_time

NEEDED = ("release", "base", "install_dir", "project_dir", "bundles_dir", "images_dir")
LOCAL = {*NEEDED, "base_packages", "registry", "public_key"}  # what the host need not know


class ActionModule(ActionBase):
    """Runs the module `container_image`; a second time with the archive or the pushed name where the host lacks it."""

    TRANSFERS_FILES = False  # only to a host that lacks the image: the others need no scratch directory
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module says, with the fact."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        known = task_vars or {}
        host = str(self._task.args.get("host") or known["inventory_hostname"])
        arguments = {name: value for name, value in self._task.args.items() if name not in LOCAL} | {"host": host}
        try:
            if arguments.get("state") == "built":
                return result | self._build()
            with one_at_a_time("image", known):
                if arguments.get("state", "present") == "absent":
                    return result | self._ask(arguments, known)
                return result | self._bring(arguments, known)
        except IcosflError as error:
            raise AnsibleActionFail(f"{host}: {error.message}. Cure: {error.cure}") from error

    def _build(self) -> dict[str, Any]:
        wanted = self._wanted()
        image = self._built(wanted, bool(self._task.check_mode))
        if image is None:
            return {"changed": True, "release": wanted.release, "image": "", "path": ""}
        return {
            "changed": image.changed,
            "release": wanted.release,
            "image": image.manifest.image,
            "path": str(image.path),
        }

    def _bring(self, arguments: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
        wanted = self._wanted()
        registry = str(self._task.args.get("registry") or "")
        check = bool(self._task.check_mode)
        image = self._built(wanted, check)
        if image is None:
            return {"changed": True, "lacking": True} | _fact(wanted.release, "", f"icosfl:{wanted.release}")
        name = image_registry.name_in(registry) if registry else ""
        arguments |= {"image": _told(image, name)}
        first = self._ask(arguments, known)
        if not first.get("lacking") or first.get("failed") or check:
            return first | _fact(wanted.release, first.get("id") or image.manifest.image, first.get("reference") or "")
        second = self._pull(arguments, image, registry, known) if name else self._ship(arguments, image, known)
        second["changed"] = bool(second.get("changed") or first.get("changed"))
        second["fetched"] = [*first.get("fetched", []), *second.get("fetched", [])]
        return second | _fact(wanted.release, second.get("id", ""), second.get("reference", ""))

    def _wanted(self) -> Wanted:
        given = {name: str(self._task.args.get(name) or "") for name in (*NEEDED, "public_key")}
        if missing := [name for name in NEEDED if not given[name]]:
            raise UserError(
                f"container_image: {', '.join(missing)} is empty",
                cure="install the release first (role python_runtime, icosfl_python_source: bundle), and give them all",
            )
        return Wanted(
            project=Path(given["project_dir"]),
            bundle=Path(given["bundles_dir"]) / f"{given['release']}.tar",
            base=given["base"],
            packages=tuple(str(name) for name in self._task.args.get("base_packages") or ()),
            install_dir=given["install_dir"],
            output=Path(given["images_dir"]),
            public_key=given["public_key"],
        )

    def _built(self, wanted: Wanted, check: bool) -> BuiltImage | None:
        if check:
            return found(wanted, Engine())
        return ensure(wanted, lambda text: self._display.display(f"image: {text}"))

    def _ask(self, arguments: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module("container_image", arguments, task_vars=known)
        return done

    def _ship(self, arguments: dict[str, Any], image: BuiltImage, known: dict[str, Any]) -> dict[str, Any]:
        image_files.check(image)
        directory = self._make_tmp_path()
        try:
            remote = self._connection._shell.join_path(directory, "image.tar.gz")
            try:
                self._transfer_file(str(image.path), remote)
            except AnsibleError as error:
                raise UserError(
                    f"the image's archive ({image.manifest.archive_size >> 20} MB) cannot be sent: {error}",
                    cure=f"look at the connection, and at the free disk of {directory}",
                ) from error
            self._fixup_perms2((directory, remote))
            return self._ask({**arguments, "shipped": remote}, known)
        finally:
            self._remove_tmp_path(directory)

    def _pull(
        self, arguments: dict[str, Any], image: BuiltImage, registry: str, known: dict[str, Any]
    ) -> dict[str, Any]:
        done = self._ask({**arguments, "pushed": image_registry.push(image, registry)}, known)
        if done.get("unknown"):  # the registry lost what was pushed before
            done = self._ask({**arguments, "pushed": image_registry.push(image, registry, again=True)}, known)
        return done


def _told(image: BuiltImage, name: str) -> dict[str, Any]:
    manifest = image.manifest
    return {
        "image": manifest.image,
        "made_of": manifest.made_of,
        "layers": list(manifest.layers),
        "architecture": manifest.architecture,
        "size": manifest.size,
        "archive_sha256": manifest.archive_sha256,
        "name": name,
    }


def _fact(release: str, image: str, reference: str) -> dict[str, Any]:
    return {
        "ansible_facts": {"container_image": {"release": release, "id": image, "reference": reference or image}},
    }
