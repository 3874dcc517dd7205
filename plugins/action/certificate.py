"""Certificates, signed on the control node: the CA's key is read here and goes nowhere."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from icosfl.errors import IcosflError
from icosfl.fleet import authority, pki

CERTIFICATE_LATER = "(made when it is signed)\n"


class ActionModule(ActionBase):
    """Signs the requests of a host's services whose present certificates will not do; returns the CA's in any case."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the certificates that the host shall have, and why one was signed."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "directory": {"type": "path", "required": True},
                "authority": {"type": "str"},
                "host": {"type": "str", "required": True},
                "services": {"type": "dict", "default": {}},
                "days": {"type": "float"},
                "requests": {"type": "dict", "default": {}},
                "present": {"type": "dict", "default": {}},
                "renew": {"type": "bool", "default": False},
                "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
            },
            required_if=[("state", "present", ("authority", "days"))],
        )
        try:
            return self._certificates(given) if given["state"] == "present" else self._forget(given, ())
        except IcosflError as error:
            raise AnsibleActionFail(f"{given['host']}: {error.message}. Cure: {error.cure}") from error

    def _certificates(self, given: dict[str, Any]) -> dict[str, Any]:
        directory, now = Path(given["directory"]), datetime.now(UTC)
        trusted = authority.certificate(directory)
        made = not trusted
        if made and self._task.check_mode:
            later = dict.fromkeys(given["services"], CERTIFICATE_LATER)
            return self._answer(True, CERTIFICATE_LATER, later, dict.fromkeys(later, "there is no CA yet"))
        if made:
            trusted = authority.open_authority(directory, given["authority"], now, self._read).certificate
        forgotten = bool(self._forget(given, given["services"])["changed"])
        certificates, reasons = {}, {}
        for service in given["services"]:
            certificates[service], reasons[service] = self._certificate(given, service, trusted, now)
        return self._answer(made or forgotten or any(reasons.values()), trusted, certificates, reasons)

    def _certificate(self, given: dict[str, Any], service: str, trusted: str, now: datetime) -> tuple[str, str]:
        """The certificate that a service shall have, and why it was signed; "" when the present one will do."""
        directory, present = Path(given["directory"]), given["present"].get(service, "")
        request = given["requests"].get(service, "")
        if not request:  # check mode, and the host has no key yet
            return CERTIFICATE_LATER, "there is none yet"
        names = pki.names_of(given["host"], *given["services"][service])
        reason = pki.reason_to_sign(present, request, trusted, names, now)
        reason = reason or ("it was asked for" if given["renew"] else "")
        if not reason:
            return present, ""
        if self._task.check_mode:
            return CERTIFICATE_LATER, reason
        signer = authority.open_authority(directory, given["authority"], now, self._read)
        signed = pki.sign(signer, request, names, given["days"], now)
        authority.note_issued(directory, given["host"], service, signed)
        return signed, reason

    def _forget(self, given: dict[str, Any], services: Collection[str]) -> dict[str, Any]:
        """Drop the copies of certificates that nobody renews any more: of all the host's services but these."""
        dry = self._task.check_mode
        return {"changed": bool(authority.forget_others(Path(given["directory"]), given["host"], services, dry=dry))}

    def _read(self, file: Path) -> str:
        """The CA's key, decrypted when it is encrypted and the vault's password was given."""
        try:
            return str(self._loader.get_text_file_contents(str(file)))
        except Exception as error:
            raise AnsibleActionFail(
                f"{file} cannot be read: {error}. Cure: --ask-vault-pass, if it is encrypted"
            ) from error

    @staticmethod
    def _answer(changed: bool, trusted: str, certificates: dict[str, str], reasons: dict[str, str]) -> dict[str, Any]:
        return {"changed": changed, "authority": trusted, "certificates": certificates, "reasons": reasons}
