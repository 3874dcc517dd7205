from __future__ import annotations

import os
from pathlib import Path

import pytest

from icosfl.errors import ConfigError, RunFailed
from icosfl.fleet.files import Ownership, Plan, entries_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "host"


def plan(root: Path, directories: object = (), files: object = (), owner: Ownership | None = None) -> Plan:
    return Plan(str(root), entries_of(str(root), list(directories), list(files)), owner)  # type: ignore[call-overload]


def directory(path: Path, **others: object) -> dict[str, object]:
    return {"path": str(path), **others}


def file(path: Path, content: str = "level = 1\n", **others: object) -> dict[str, object]:
    return {"path": str(path), "content": content, **others}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_bare_host_gets_directories_and_files_and_then_nothing_differs(root: Path) -> None:
    wanted = (
        [directory(root / "etc"), directory(root / "data" / "redis")],
        [file(root / "etc" / "redis.conf", "a ü\n")],
    )

    first = plan(root, *wanted)
    first.apply()

    assert [change.path for change in first.changes] == [
        str(root / "data" / "redis"),
        str(root / "etc"),
        str(root / "etc" / "redis.conf"),
    ]
    assert (root / "etc" / "redis.conf").read_text("utf-8") == "a ü\n"
    assert [mode(path) for path in (root, root / "etc", root / "data", root / "data" / "redis")] == [0o700] * 4
    assert mode(root / "etc" / "redis.conf") == 0o600
    assert plan(root, *wanted).changes == ()


def test_a_plan_alone_touches_nothing(root: Path) -> None:
    assert plan(root, [directory(root)], [file(root / "a")]).changes
    assert not root.exists()


def test_a_changed_file_is_shown_line_by_line_and_replaced_at_once(root: Path) -> None:
    plan(root, [directory(root)], [file(root / "a", "level = 1\n")]).apply()
    inode = (root / "a").stat().st_ino

    changed = plan(root, [directory(root)], [file(root / "a", "level = 2\n")])
    changed.apply()

    (change,) = changed.changes
    assert ("level = 1" in change.before, "level = 2" in change.after) == (True, True)
    assert (root / "a").stat().st_ino != inode
    assert [path.name for path in root.iterdir()] == ["a"]


def test_a_mode_that_was_changed_by_hand_is_put_right(root: Path) -> None:
    wanted = ([directory(root / "etc")], [file(root / "etc" / "a", mode="0640")])
    plan(root, *wanted).apply()
    (root / "etc").chmod(0o777)
    (root / "etc" / "a").chmod(0o666)

    plan(root, *wanted).apply()

    assert (mode(root / "etc"), mode(root / "etc" / "a")) == (0o700, 0o640)


def test_secrets_are_in_no_diff_and_their_change_still_shows(root: Path) -> None:
    def content(secret: str) -> str:
        kind = "EC PRIVATE KEY"
        key = f"-----BEGIN {kind}-----\n{secret}\n-----END {kind}-----\n"
        return f'user = "u"\npassword = "{secret}"\n{key}'

    plan(root, [directory(root)], [file(root / "a", content("hunter1"))]).apply()
    (change,) = plan(root, [directory(root)], [file(root / "a", content("hunter2"))]).changes

    assert "hunter" not in change.before + change.after
    assert 'user = "u"' in change.after
    assert change.before != change.after


def test_under_systemd_the_group_reads_what_the_services_do_not_own(root: Path) -> None:
    owner = Ownership(user=os.getuid(), group=os.getgid(), root=os.getuid())

    plan(
        root,
        [directory(root / "etc", writable=False), directory(root / "data", writable=True)],
        [file(root / "etc" / "a")],
        owner,
    ).apply()

    assert [mode(root / name) for name in ("", "etc", "data", "etc/a")] == [0o750, 0o750, 0o700, 0o640]


def test_a_file_without_a_directory_is_refused_with_the_cure(root: Path) -> None:
    with pytest.raises(ConfigError, match="its directory does not exist") as refused:
        plan(root, [directory(root / "etc")], [file(root / "other" / "a")])

    assert "declare the directory" in refused.value.cure


@pytest.mark.parametrize("what", ["file", "directory", "parent"])
def test_a_symbolic_link_is_refused_and_not_followed(what: str, root: Path, tmp_path: Path) -> None:
    (root / "data").mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    (root / "data" / "link").symlink_to(victim if what != "file" else victim / "shadow")
    wanted = {
        "file": ([], [file(root / "data" / "link")]),
        "directory": ([directory(root / "data" / "link")], []),
        "parent": ([], [file(root / "data" / "link" / "a")]),
    }[what]

    with pytest.raises(ConfigError, match="symbolic link"):
        plan(root, *wanted)

    assert list(victim.iterdir()) == []


def test_a_link_put_in_the_way_after_the_plan_is_not_followed(root: Path, tmp_path: Path) -> None:
    (root / "data").mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    planned = plan(root, [], [file(root / "data" / "a")])
    (root / "data").rmdir()
    (root / "data").symlink_to(victim)

    with pytest.raises(ConfigError, match="symbolic link"):
        planned.apply()

    assert list(victim.iterdir()) == []


@pytest.mark.parametrize(
    ("directories", "files", "words"),
    [
        ([{"path": "/etc/cron.d"}], [], "outside the host's root"),
        ([{"path": "{root}/../x"}], [], "path is no absolute path"),
        ([{"path": "{root}/a", "mode": 448}], [], "mode is 448"),
        ([{"path": "{root}/a", "mode": "rwx"}], [], "mode is 'rwx'"),
        ([{"path": "{root}/a", "owner": "me"}], [], "owner is unknown"),
        ([], [{"path": "{root}/a"}], "content is missing"),
        ([], [{"path": "{root}/a", "content": {"a": 1}}], "content is"),
        ([{"path": "{root}/a"}, {"path": "{root}/a", "writable": False}], [], "described twice, and differently"),
        ([{"path": "{root}/a"}], [{"path": "{root}/a", "content": ""}], "described twice"),
    ],
)
def test_a_wrong_description_is_refused_by_name(
    directories: list[dict[str, object]], files: list[dict[str, object]], words: str, root: Path
) -> None:
    for each in (*directories, *files):
        each["path"] = str(each["path"]).format(root=root)

    with pytest.raises(ConfigError, match=words):
        entries_of(str(root), directories, files)


def test_directories_that_roles_share_are_described_once_or_alike(root: Path) -> None:
    assert len(entries_of(str(root), [directory(root / "etc"), directory(root / "etc")], [])) == 1


def test_what_the_file_system_refuses_names_the_path(root: Path) -> None:
    root.mkdir()
    (root / "a").write_text("")

    with pytest.raises((ConfigError, RunFailed), match=str(root / "a")):
        plan(root, [directory(root / "a" / "b")]).apply()
