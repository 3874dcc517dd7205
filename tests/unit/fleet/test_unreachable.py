from __future__ import annotations

import pytest

from icosfl.fleet.unreachable import cause_of, lacks_release

SSH = "Failed to connect to the host via ssh: "


@pytest.mark.parametrize(
    ("said", "cause", "cure"),
    [
        ("ssh: connect to host 192.0.2.1 port 22: Connection refused", "nothing takes SSH connections", "sshd"),
        ("ssh: connect to host 192.0.2.1 port 22: Connection timed out", "does not answer", "network"),
        ("ssh: connect to host 192.0.2.1 port 22: No route to host", "does not answer", "network"),
        ("ssh: Could not resolve hostname edge: Name or service not known", "no address", "ansible_host"),
        ("deploy@192.0.2.1: Permission denied (publickey).", "refuses our SSH key", "authorized_keys"),
        ("Host key verification failed.", "host key is not known", "ssh-keyscan"),
        (
            "@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@@@\nHost key verification failed.",
            "not the one that known_hosts has",
            "ssh-keygen -R",
        ),
        ("kex_exchange_identification: Connection closed by remote host", "ends the SSH connection", "sshd"),
    ],
)
def test_what_ssh_says_becomes_a_cause_with_its_cure(said: str, cause: str, cure: str) -> None:
    told, cured = cause_of(SSH + said, unreachable=True)

    assert cause in told
    assert cure in cured
    assert "Failed to connect" not in told


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Missing sudo password", "wants a password"),
        ("sudo: a password is required", "wants a password"),
        ("deploy is not in the sudoers file.", "does not take our user"),
        ("/bin/sh: 1: sudo: not found", "does not take our user"),
    ],
)
def test_a_host_without_sudo_for_us_is_told_although_it_is_reachable(said: str, cause: str) -> None:
    assert cause in cause_of(f"MODULE FAILURE\n{said}", unreachable=False)[0]


def test_a_task_that_failed_for_its_own_reason_is_left_alone() -> None:
    assert cause_of("http://127.0.0.1:64: Connection refused", unreachable=False) == ("", "")


def test_what_ansible_says_before_ssh_is_left_out() -> None:
    said = (
        'Task failed: Data could not be sent to remote host "192.0.2.1". Make sure this host can be reached over ssh: '
        "ssh: connect to host 192.0.2.1 port 22: Connection refused"
    )

    told, _ = cause_of(said, unreachable=True)

    assert told.endswith("(connect to host 192.0.2.1 port 22: Connection refused)")


def test_words_that_nobody_knows_are_left_alone() -> None:
    assert cause_of("the moon is full", unreachable=True) == ("", "")


def test_a_host_without_our_python_has_no_release() -> None:
    assert lacks_release("The module interpreter '/opt/x/bin/python' was not found.", None)
    assert lacks_release("", 127)
    assert not lacks_release("redis: no room", 1)
