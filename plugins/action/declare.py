"""What a role wants of its host, noted on the control node: no connection, no change.

Each call of a module over SSH costs about half a second of processor time. So roles say what they want with this
action, and one call of the role `service` at the end of the play makes all of it.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

KINDS = ("directories", "files", "services", "questions")


class ActionModule(ActionBase):
    """Merges what a role declares into `ansible_facts.declared`, by role and kind."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the host's declarations with those of this task in their role's place."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        role = arguments.pop("role", None)
        if not isinstance(role, str) or not role:
            raise AnsibleActionFail("declare: role is missing. Cure: name the role that declares")
        for kind, wanted in arguments.items():
            if kind not in KINDS:
                raise AnsibleActionFail(f"declare: {kind} is unknown. Cure: use one of {', '.join(KINDS)}")
            if not isinstance(wanted, list) or not all(isinstance(each, dict) for each in wanted):
                raise AnsibleActionFail(f"declare: {kind} of role {role} is no list of mappings. Cure: write a list")
        before = ((task_vars or {}).get("ansible_facts") or {}).get("declared") or {}
        of_role = {**before.get(role, {}), **arguments}
        return {"changed": False, "ansible_facts": {"declared": {**before, role: of_role}}}
