"""Asks a host for a release in one call, and ships the bundle only to one that lacks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from icosfl.fleet.bundle import verify_once
from icosfl.fleet.bundle_archive import BundleRefused
from icosfl.fleet.turns import one_at_a_time


class ActionModule(ActionBase):
    """Runs the module `release`; a second time with the bundle where the host lacks it."""

    TRANSFERS_FILES = False  # only to a host that lacks the release: the others need no scratch directory
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module says."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {**self._task.args, "host": self._task.args.get("host") or (task_vars or {})["inventory_hostname"]}
        with one_at_a_time("release", task_vars or {}, str(self._task.args.get("install_dir"))):
            result |= self._ask(arguments, task_vars)
            result["ansible_facts"] = {"release": {"id": result.get("id"), "lacking": bool(result.get("lacking"))}}
            if result.get("failed") or not result.get("lacking") or self._task.check_mode:
                return result
            shipped = self._ship(arguments, result, task_vars)
            return result | shipped | {"ansible_facts": {"release": {"id": shipped.get("id"), "lacking": False}}}

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module("release", arguments, task_vars=task_vars)
        return done

    def _ship(
        self, arguments: dict[str, Any], found: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        host, bundle = arguments["host"], arguments.get("bundle", "")
        if not bundle:
            there = ", ".join(found["installed"]) or "none"
            raise AnsibleActionFail(
                f"{host}: release {arguments.get('id')} is not installed (there: {there}), and the control node has "
                "no bundle of it. Cure: name a release that is there, or leave icosfl_release empty for the newest"
            )
        try:  # a damaged bundle must not reach any host
            verify_once(Path(bundle), arguments.get("public_key", ""), arguments.get("sha256", ""))
        except BundleRefused as error:
            raise AnsibleActionFail(f"{host}: {error.cause}. Cure: {error.cure}") from error
        directory = self._make_tmp_path()
        try:
            remote = self._connection._shell.join_path(directory, "bundle.tar")
            self._transfer_file(bundle, remote)
            self._fixup_perms2((directory, remote))
            return self._ask({**arguments, "shipped": remote}, task_vars)
        finally:
            self._remove_tmp_path(directory)
