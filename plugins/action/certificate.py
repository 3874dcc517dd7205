"""Certificates, signed on the control node: the CA's key is read here and goes nowhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from icosfl.errors import IcosflError
from icosfl.fleet import authority, pki

CERTIFICATE_LATER = "(made when it is signed)\n"


class ActionModule(ActionBase):
    """Signs a host's request unless its present certificate will do; returns the CA's certificate in any case."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the certificates that the host shall have, and why one was signed."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "directory": {"type": "path", "required": True},
                "authority": {"type": "str", "required": True},
                "host": {"type": "str", "required": True},
                "service": {"type": "str", "default": ""},
                "names": {"type": "list", "elements": "str", "default": []},
                "days": {"type": "float", "required": True},
                "request": {"type": "str", "default": ""},
                "present": {"type": "str", "default": ""},
                "renew": {"type": "bool", "default": False},
            }
        )
        try:
            return self._certificates(given)
        except IcosflError as error:
            raise AnsibleActionFail(f"{given['host']}: {error.message}. Cure: {error.cure}") from error

    def _certificates(self, given: dict[str, Any]) -> dict[str, Any]:
        directory, now = Path(given["directory"]), datetime.now(UTC)
        trusted = authority.certificate(directory)
        if self._task.check_mode and not trusted:
            return self._answer(True, CERTIFICATE_LATER, CERTIFICATE_LATER, "there is no CA yet")
        made = not trusted
        if made:
            trusted = authority.open_authority(directory, given["authority"], now, self._read).certificate
        if not given["service"]:
            return self._answer(made, trusted, "", "")
        if not given["request"]:  # check mode, and the host has no key yet
            return self._answer(True, trusted, CERTIFICATE_LATER, "there is none yet")
        names = pki.names_of(given["host"], *given["names"])
        reason = pki.reason_to_sign(given["present"], given["request"], trusted, names, now)
        reason = reason or ("it was asked for" if given["renew"] else "")
        if not reason:
            return self._answer(made, trusted, given["present"], "")
        if self._task.check_mode:
            return self._answer(True, trusted, CERTIFICATE_LATER, reason)
        signer = authority.open_authority(directory, given["authority"], now, self._read)
        signed = pki.sign(signer, given["request"], names, given["days"], now)
        authority.note_issued(directory, given["host"], given["service"], signed)
        return self._answer(True, trusted, signed, reason)

    def _read(self, file: Path) -> str:
        """The CA's key, decrypted when it is encrypted and the vault's password was given."""
        try:
            return str(self._loader.get_text_file_contents(str(file)))
        except Exception as error:
            raise AnsibleActionFail(
                f"{file} cannot be read: {error}. Cure: --ask-vault-pass, if it is encrypted"
            ) from error

    @staticmethod
    def _answer(changed: bool, trusted: str, certificate: str, reason: str) -> dict[str, Any]:
        return {"changed": changed, "authority": trusted, "certificate": certificate, "reason": reason}
