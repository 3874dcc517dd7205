"""The passwords of Ansible's vaults, found where `ansible-playbook` in the project would find them.

Only the option, the environment and ansible.cfg count; nobody is asked at a prompt, for programs call us, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from icosfl.errors import ConfigError

if TYPE_CHECKING:
    from ansible.parsing.dataloader import DataLoader

PASSWORD_FILE = "ANSIBLE_VAULT_PASSWORD_FILE"  # noqa: S105 (the name of a variable)
CURE = "give the vault's password: icosfl --vault-password-file FILE …, or set ANSIBLE_VAULT_PASSWORD_FILE"
_PROMPTS = ("prompt", "prompt_ask_vault_pass")


def use_password_file(file: Path | None) -> None:
    """Let every Ansible that this process calls take the vault's password from a file; None: from the environment.

    A relative path counts from where the user stands, not from where Ansible works.
    """
    given = str(file) if file is not None else os.environ.get(PASSWORD_FILE, "")
    if given:
        os.environ[PASSWORD_FILE] = str(Path(given).expanduser().absolute())


def open_vaults(loader: DataLoader, project: Path) -> None:
    """Let the loader read what is encrypted, as far as there are passwords.

    Raises:
        AnsibleError: a password's file cannot be read.
    """
    from ansible.parsing.vault import VaultSecretsContext, get_file_vault_secret

    secrets = []
    for name, file in _sources(project):
        secret = get_file_vault_secret(filename=file, vault_id=name, loader=loader)
        secret.load()
        secrets.append((name, secret))
    loader.set_vault_secrets(secrets)
    context = VaultSecretsContext.current(optional=True)  # there can be one for the whole process
    if context is None:
        VaultSecretsContext.initialize(VaultSecretsContext(secrets))
    else:
        context.secrets = secrets


def reader(project: Path) -> Callable[[Path], str]:
    """What reads a file that may be encrypted; it raises ConfigError for one that cannot be read."""

    def read(file: Path) -> str:
        from ansible.errors import AnsibleError
        from ansible.parsing.dataloader import DataLoader

        loader = DataLoader()
        try:
            open_vaults(loader, project)
            return str(loader.get_text_file_contents(str(file)))
        except AnsibleError as error:
            cure = CURE if "decrypt" in str(error) else "run this as the user who owns it"
            raise ConfigError(f"{file} cannot be read: {error.message}", cure=cure) from error

    return read


def _sources(project: Path) -> Iterator[tuple[str, str]]:
    """The names of vaults and the files (or programs) that know their passwords."""
    from ansible.config.manager import ConfigManager

    file = project / "ansible.cfg"
    config = ConfigManager(str(file) if file.exists() else None)
    unnamed = str(config.get_config_value("DEFAULT_VAULT_IDENTITY"))
    for each in config.get_config_value("DEFAULT_VAULT_IDENTITY_LIST") or []:
        name, named, source = str(each).rpartition("@")
        if source not in _PROMPTS:
            yield name if named else unnamed, source
    if source := config.get_config_value("DEFAULT_VAULT_PASSWORD_FILE"):
        yield unnamed, str(source)
