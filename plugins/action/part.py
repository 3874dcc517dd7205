"""Fetches third-party programs to the control node, asks a host for them in one call, and ships those that it lacks."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from icosfl.errors import IcosflError
from icosfl.fleet import parts

OURS = ("pins", "fetched_dir")  # of no use to the host


class ActionModule(ActionBase):
    """Runs the module `part`; a second time with the programs that the host lacks."""

    TRANSFERS_FILES = False  # only to a host that lacks one: the others need no scratch directory
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module says."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = dict(self._task.args)
        host = given["host"]
        try:
            found = [self._fetched(given, name) for name in given["names"]]
        except IcosflError as error:
            raise AnsibleActionFail(f"{host}: {error.message}. Cure: {error.cure}") from error
        if later := [name for name, each in found if each is None]:
            return result | {"changed": True, "lacking": later, "deleted": []}
        programs = {name: each for name, each in found if each is not None}
        arguments = {
            **{name: value for name, value in given.items() if name not in OURS},
            "programs": [
                {"name": name, "version": each.part.version, "sha256": each.sha256, "machine": each.part.machine}
                for name, each in programs.items()
            ],
        }
        result |= self._ask(arguments, task_vars)
        lacking = result.get("lacking")
        if result.get("failed") or not lacking or self._task.check_mode:
            return result
        return result | self._ship(arguments, {name: programs[name].path for name in lacking}, task_vars)

    def _fetched(self, given: dict[str, Any], name: str) -> tuple[str, parts.Fetched | None]:
        """A program and where it is here; None in check mode when it was not fetched yet."""
        part = parts.part_of(given["pins"], name, platform.machine())
        directory = Path(given["fetched_dir"])
        return name, parts.there(part, directory) if self._task.check_mode else parts.ensure(part, directory)

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module("part", arguments, task_vars=task_vars)
        return done

    def _ship(
        self, arguments: dict[str, Any], lacking: dict[str, Path], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        directory = self._make_tmp_path()
        try:
            shipped = {name: self._connection._shell.join_path(directory, name) for name in lacking}
            for name, path in lacking.items():
                self._transfer_file(str(path), shipped[name])
            self._fixup_perms2((directory, *shipped.values()))
            return self._ask({**arguments, "shipped": shipped}, task_vars)
        finally:
            self._remove_tmp_path(directory)
