"""Why Ansible cannot work on a host, in one sentence with its cure: pure functions on Ansible's own words."""

from __future__ import annotations

import re

NO_RELEASE = "icosfl is not installed on it"
_NOISE = re.compile(r"^.*?(?:via|over) ssh: ")  # what Ansible says before it hands on the words of ssh
_INTERPRETER = re.compile(
    r"interpreter\b.* not found|No such file or directory.*\bpython|python\S*: not found", re.DOTALL
)

_WITHOUT_CONNECTION: tuple[tuple[str, str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its SSH host key is not the one that known_hosts has",
        "find out why: another machine may answer there; if it was set up anew, ssh-keygen -R and take the new key",
    ),
    (
        r"Host key verification failed|host key is known",
        "its SSH host key is not known here",
        "compare its key with the one that you expect, then add it: ssh-keyscan ADDRESS >> ~/.ssh/known_hosts",
    ),
    (
        r"Permission denied \(|Too many authentication failures",
        "it refuses our SSH key or user",
        "put our public key into authorized_keys there, or correct ansible_user and ansible_ssh_private_key_file",
    ),
    (
        r"UNPROTECTED PRIVATE KEY|bad permissions",
        "the private SSH key may be read by others, so that ssh does not use it",
        "chmod 600 on the key",
    ),
    (
        r"Could not resolve hostname|Name or service not known",
        "its name has no address",
        "correct it, or set ansible_host",
    ),
    (r"Connection refused", "nothing takes SSH connections there", "start sshd on it, or correct ansible_port"),
    (
        r"Connection timed out|timed out|No route to host|Network is unreachable|Host is down",
        "it does not answer",
        "see whether it runs and whether the network reaches it, or correct ansible_host",
    ),
    (
        r"Connection closed by|Connection reset by|kex_exchange_identification|Broken pipe",
        "it ends the SSH connection",
        "see the log of its sshd; it may be starting, or full",
    ),
)
_WITH_CONNECTION: tuple[tuple[str, str, str], ...] = (
    (
        r"[Mm]issing sudo password|sudo: a password is required|Incorrect sudo password",
        "its sudo wants a password",
        "let ansible_user run sudo without one, or set ansible_become_password in a vault",
    ),
    (
        r"not in the sudoers file|not allowed to (execute|run sudo)|sudo: (command )?not found|may not run sudo",
        "its sudo does not take our user",
        "let ansible_user run sudo there, or set another ansible_user",
    ),
    (
        r"Failed to create temporary directory|failed to create temporary directory",
        "there is no room to work in",
        "free some space there, and see that its file system can be written",
    ),
)


def cause_of(message: str, *, unreachable: bool) -> tuple[str, str]:
    """Return what hinders Ansible from working on a host, and the cure; two empty texts when that is not known.

    Args:
        message: What Ansible says.
        unreachable: Whether it says that the host is unreachable; else a task failed there.

    Returns:
        Our words with the decisive line of Ansible's, and what to do.
    """
    for pattern, cause, cure in (*_WITH_CONNECTION, *(_WITHOUT_CONNECTION if unreachable else ())):
        found = re.search(pattern, message)
        if found:
            line = next(line for line in message[: found.end() + 200].splitlines() if re.search(pattern, line))
            return f"{cause} ({_short(line)})", cure
    return "", ""


def lacks_release(message: str, code: int | None) -> bool:
    """Whether a module did not start because the host has no Python of ours."""
    return code == 127 or bool(_INTERPRETER.search(message))


def _short(line: str) -> str:
    text = _NOISE.sub("", line.strip()).removeprefix("ssh: ").strip("@ ")
    return text if len(text) <= 160 else f"{text[:157]}..."
