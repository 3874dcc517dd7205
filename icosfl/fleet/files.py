"""The directories and files that a host is meant to have: what differs from them, and how they come to be.

Everything lies below the host's root. There, no symbolic link is followed: services may own directories in which root
writes. A file is replaced at once or not at all.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from icosfl.errors import ConfigError, RunFailed
from icosfl.fleet.table import Table

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = re.compile(r"0?[0-7]{3}")
_LONGEST_DIFF = 100_000
_KEY_BLOCK = re.compile(r"(-----BEGIN [A-Z ]*KEY-----).*?(-----END [A-Z ]*KEY-----|\Z)", re.DOTALL)
_SECRET_LINE = re.compile(r"(?im)^(\s*[\w.-]*(?:pass(?:word|wd)?|secret|token|credential)[\w.-]*\s*[=: ]\s*)\S.*$")


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who owns what a host has; None leaves it to whoever makes it.

    Args:
        user: The id of the user of the services, who owns the directories that are written.
        group: The group of that user, which may read what the user is meant to read.
        root: The owner of everything else.
    """

    user: int | None = None
    group: int | None = None
    root: int | None = None

    def mode(self, mode: int, *, writable: bool) -> int:
        """Return the mode on disk: what a service does not own it reads as the group."""
        return mode if writable or self.group is None else mode | (mode & 0o500) >> 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory, or a file with its content, as it is meant to be; `writable` is for the services."""

    path: str
    mode: int
    writable: bool
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs: how it is and how it will be, in words without secrets; "" where there is nothing."""

    path: str
    before: str
    after: str


def entries_of(root: str, directories: object, files: object) -> tuple[Entry, ...]:
    """Check the descriptions of directories and files and return them, parents first.

    Raises:
        ConfigError: One is wrong, lies outside the root, or two of them contradict each other.
    """
    found: dict[str, Entry] = {}
    for entry in (*_entries("directories", directories), *_entries("files", files)):
        if not PurePosixPath(entry.path).is_relative_to(root):
            raise ConfigError(f"{entry.path} lies outside the host's root {root}", cure="put it below icosfl_home")
        if found.setdefault(entry.path, entry) != entry:
            raise ConfigError(
                f"{entry.path} is described twice, and differently", cure="let one role describe it, or all alike"
            )
    return tuple(found[path] for path in sorted(found, key=lambda path: (found[path].content is not None, path)))


class Plan:
    """What of the entries differs on disk now.

    Args:
        root: The host's root directory; it need not exist.
        entries: What there is meant to be, parents first.
        owner: Who is to own it.

    Raises:
        ConfigError: A file's directory is missing and no entry makes it, or something else is in the way.
    """

    def __init__(self, root: str, entries: Collection[Entry] = (), owner: Ownership | None = None) -> None:
        self._root, self.owner = Path(root), owner or Ownership()
        self._entries = tuple(entries)
        self.contents = {entry.path: entry.content for entry in self._entries if entry.content is not None}
        self._directories = {entry.path for entry in self._entries if entry.content is None}
        self.changes = tuple(change for entry in self._entries if (change := self._difference(entry)))

    def makes(self, path: str) -> bool:
        """Return whether a directory is among the entries, or above one of them."""
        return any(PurePosixPath(each).is_relative_to(path) for each in self._directories)

    def apply(self) -> None:
        """Make everything so that nothing differs any more.

        Raises:
            RunFailed: The file system refuses it.
        """
        wanted = {change.path for change in self.changes}
        for entry in self._entries:
            if entry.path in wanted:
                with _translated(entry.path):
                    if entry.content is None:
                        self._make(entry)
                    else:
                        self._write(entry, entry.content)

    def _difference(self, entry: Entry) -> Change | None:
        try:
            with _translated(entry.path), self._opened(PurePosixPath(entry.path).parent) as parent:
                before = _state(parent, entry)
        except FileNotFoundError:
            before = None
            if entry.content is not None and not self.makes(str(PurePosixPath(entry.path).parent)):
                raise ConfigError(
                    f"{entry.path}: its directory does not exist", cure="let the role declare the directory, too"
                ) from None
        uid, gid = self._ids(entry)
        after = _State(
            self.owner.mode(entry.mode, writable=entry.writable),
            uid if uid is not None or before is None else before.uid,
            gid if gid is not None or before is None else before.gid,
            entry.content,
        )
        return None if before == after else _described(entry.path, before, after)

    def _make(self, entry: Entry) -> None:
        for each in [*reversed(PurePosixPath(entry.path).parents), PurePosixPath(entry.path)]:
            if not each.is_relative_to(self._root):
                if not Path(each).is_dir():
                    Path(each).mkdir(mode=0o755)
                    Path(each).chmod(0o755)
                continue
            made = False
            with self._opened(each.parent) as parent:
                with suppress(FileExistsError):
                    os.mkdir(each.name, 0o700, dir_fd=parent)
                    made = True
                if made or str(each) == entry.path:
                    described = entry if str(each) == entry.path else Entry(str(each), 0o700, writable=False)
                    directory = os.open(each.name, _DIRECTORY, dir_fd=parent)
                    try:
                        self._own(directory, described)
                    finally:
                        os.close(directory)

    def _write(self, entry: Entry, content: str) -> None:
        path = PurePosixPath(entry.path)
        temporary = f".new-{secrets.token_hex(8)}"
        with self._opened(path.parent) as parent:
            number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
                    file.write(content)
                    file.flush()
                    self._own(number, entry)
                    os.fsync(number)
                os.replace(temporary, path.name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)
                raise

    def _own(self, number: int, entry: Entry) -> None:
        uid, gid = self._ids(entry)
        if uid is not None or gid is not None:
            os.fchown(number, -1 if uid is None else uid, -1 if gid is None else gid)
        os.fchmod(number, self.owner.mode(entry.mode, writable=entry.writable))

    def _ids(self, entry: Entry) -> tuple[int | None, int | None]:
        return self.owner.user if entry.writable else self.owner.root, self.owner.group

    @contextmanager
    def _opened(self, directory: PurePosixPath) -> Iterator[int]:
        """Open a directory below the root, or the root's parent, without following a symbolic link below the root.

        Raises:
            FileNotFoundError: It does not exist.
        """
        above = self._root.parent if not directory.is_relative_to(self._root) else self._root
        number = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in directory.relative_to(above).parts:
                below = os.open(part, _DIRECTORY, dir_fd=number)
                os.close(number)
                number = below
            yield number
        finally:
            os.close(number)


@dataclass(frozen=True, slots=True)
class _State:
    mode: int
    uid: int | None
    gid: int | None
    content: str | None

    def words(self) -> str:
        owner = f", owner {self.uid}:{self.gid}" if self.uid is not None else ""
        text = "" if self.content is None else _masked(self.content)
        if len(text) > _LONGEST_DIFF:
            text = f"{len(text)} characters\n"
        return f"{'directory' if self.content is None else 'file'}, mode {self.mode:04o}{owner}\n{text}"


def _state(parent: int, entry: Entry) -> _State | None:
    """Return what is on disk; None when there is nothing."""
    name = PurePosixPath(entry.path).name
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    wanted = stat.S_ISDIR if entry.content is None else stat.S_ISREG
    if not wanted(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "something else"
        raise ConfigError(
            f"{entry.path} is {what}, not a {'directory' if entry.content is None else 'file'}", cure="remove it"
        )
    content = None
    if entry.content is not None:
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), "rb") as file:
            content = file.read().decode("utf-8", "replace")
    return _State(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, content)


def _entries(key: str, descriptions: object) -> Iterator[Entry]:
    if descriptions is None:
        return
    if not isinstance(descriptions, list):
        raise ConfigError(f"{key}: expected a list, got {type(descriptions).__name__}")
    for description in descriptions:
        table = Table(key, description)
        path = table.text("path")
        table.owner = f"{key}: {path}"
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise table.error("path", "is no absolute path without ..")
        directory = key == "directories"
        mode = table.text("mode", "0700" if directory else "0600")
        if not _MODE.fullmatch(mode):
            raise table.error("mode", f"is {mode!r}", 'expected an octal mode as a text, such as "0600"')
        yield Entry(
            str(PurePosixPath(path)),
            int(mode, 8),
            directory and table.boolean("writable", default=True),
            None if directory else table.text("content"),
        )
        table.refuse_the_rest()


def _described(path: str, before: _State | None, after: _State) -> Change:
    old, new = before.words() if before else "", after.words()
    if old == new:  # they differ in a secret, or in what is too long to show
        new = f"{new}(its content differs)\n"
    return Change(path, old, new)


def _masked(text: str) -> str:
    return _SECRET_LINE.sub(r"\1********", _KEY_BLOCK.sub(r"\1 ******** \2", text))


def changed_paths(changes: Iterable[Change]) -> tuple[str, ...]:
    """Return the paths of changes."""
    return tuple(change.path for change in changes)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise ConfigError(
                f"{path}: a symbolic link or a file stands where a directory is meant to be", cure="remove it"
            ) from error
        cure = "free some space" if error.errno == errno.ENOSPC else "make it writable for the user who deploys"
        raise RunFailed(f"{path}: {error.strerror}", cure=cure) from error
