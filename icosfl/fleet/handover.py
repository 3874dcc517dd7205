"""Gives what services wrote to another user, when another runtime runs them from now on."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from icosfl.errors import RunFailed
from icosfl.fleet.files import Ownership


def hand_over(directories: Iterable[str], owner: Ownership) -> None:
    """Make the user of the services the owner of all that lies in directories that services write.

    No symbolic link is followed, and a file with a second name elsewhere is left alone: services owned these
    directories, and root does this.

    Args:
        directories: Those that services write; one that is missing is left out.
        owner: Whose services are; nothing is done where they are whoever deploys.

    Raises:
        RunFailed: The file system refuses it.
    """
    if owner.user is None or owner.group is None:
        return
    for directory in directories:
        try:
            for _, _, files, number in os.fwalk(directory, follow_symlinks=False):
                os.fchown(number, owner.user, owner.group)
                for name in files:
                    found = os.stat(name, dir_fd=number, follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode) or found.st_nlink == 1:
                        os.chown(name, owner.user, owner.group, dir_fd=number, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RunFailed(
                f"{error.filename or directory}: {error.strerror}", cure="run as root, or give it to the user by hand"
            ) from error
