"""Finds the project's release bundle on the control node, and builds it where there is none: no connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from icosfl.errors import IcosflError
from icosfl.fleet.bundle import Built, Wanted, ensure, found, planned, public_key

TEXTS = ("project_dir", "directory", "python_version", "machine", "release", "sign_key", "public_key")
EXTRAS = "extras"


class ActionModule(ActionBase):
    """Runs `icosfl.fleet.bundle.ensure`."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return where the bundle lies and what it holds."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if unknown := sorted(set(self._task.args) - {*TEXTS, EXTRAS}):
            known = ", ".join([*TEXTS, EXTRAS])
            raise AnsibleActionFail(f"release_bundle: {', '.join(unknown)} is unknown. Cure: use {known}")
        wanted = {name: str(self._task.args.get(name) or "") for name in TEXTS}
        try:
            return result | self._find(wanted, tuple(self._task.args.get(EXTRAS) or ()))
        except IcosflError as error:
            raise AnsibleActionFail(f"the release bundle: {error.message}. Cure: {error.cure}") from error

    def _find(self, wanted: dict[str, str], extras: tuple[str, ...]) -> dict[str, Any]:
        key = Path(wanted["sign_key"]) if wanted["sign_key"] else None
        what = Wanted(
            Path(wanted["project_dir"]),
            Path(wanted["directory"]),
            wanted["python_version"] or None,
            wanted["machine"] or None,
            key,
            extras,
        )
        if key and wanted["public_key"] and public_key(key) != wanted["public_key"]:
            raise AnsibleActionFail(
                "the release bundle: its public key is not that of its signing key. Cure: correct one"
            )
        if wanted["release"]:
            there = found(what.output, wanted["release"])
            return _told(there) if there else {"changed": False, "id": wanted["release"], "path": ""} | _NOTHING
        if self._task.check_mode:
            plan = planned(what)
            there = found(what.output, plan.id, key)
            return _told(there) if there else {"changed": True, "id": plan.id, "path": ""} | _NOTHING
        return _told(ensure(what, lambda text: self._display.display(f"bundle: {text}")))


_NOTHING: dict[str, Any] = {"sha256": "", "target": {}, "needs_bytes": 0, "signed": False}


def _told(built: Built) -> dict[str, Any]:
    return {
        "changed": built.changed,
        "id": built.manifest.id,
        "path": str(built.path),
        "sha256": built.manifest.sha256,
        "target": built.manifest.target,
        "needs_bytes": built.manifest.needs_bytes,
        "signed": built.manifest.signed,
    }
