from __future__ import annotations

import shlex
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from icosfl.errors import ConfigError
from icosfl.fleet.definition import (
    DIGEST_VARIABLE,
    Layout,
    content_digest,
    daemon_text,
    masked,
    program_text,
    secrets_of,
)
from icosfl.fleet.service import HealthCheck, Service

CHECK = HealthCheck("http", "127.0.0.1", 8080, "/", "", 10.0)


def service(**changes: Any) -> Service:
    return Service(
        **{"name": "demo", "command": ("/bin/true",), "health": CHECK, "stop_seconds": 7, "priority": 5} | changes
    )


def as_supervisord_reads(directory: Path, described: Service, digest: str = "d1") -> Any:
    """Return the program that supervisord's own parser makes of the files that we write for it."""
    layout = Layout.at(str(directory))
    layout.program("x").parent.mkdir(parents=True, exist_ok=True)
    layout.logs.mkdir(exist_ok=True)
    layout.config.write_text(daemon_text(layout, "root"), "utf-8")
    layout.program(described.name).write_text(program_text(described, layout, digest), "utf-8")
    options = ServerOptions()
    options.realize(["-c", str(layout.config)])
    (group,) = options.process_group_configs
    (program,) = group.process_configs
    return program


def refused(described: Service) -> bool:
    try:
        program_text(described, Layout.at("/srv/host"), "d")
    except ConfigError as error:
        return "service demo: environment.VALUE" in str(error)
    return False


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


def test_service_comes_back_for_ever_and_stops_with_its_children(root: Path) -> None:
    program = as_supervisord_reads(root, service(environment={"LEVEL": "info"}))

    assert (program.name, program.command, program.priority) == ("demo", "/bin/true", 5)
    assert program.directory == str(root)
    assert program.stopwaitsecs == 7
    assert program.stopasgroup
    assert program.killasgroup
    assert program.autostart
    assert program.startretries > 10_000  # at one second more each time, years
    assert program.umask == 0o077
    assert program.stdout_logfile == str(root / "log" / "demo.log")
    assert program.redirect_stderr
    assert program.environment == {"LEVEL": "info", DIGEST_VARIABLE: "d1"}


printable = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40)
tricky = st.text(st.sampled_from(" \t'\"%#;()=,$\\`s{}here" + string.ascii_letters), max_size=30).map(
    lambda text: text.replace("\t", " ")
)


@given(arguments=st.lists(printable | tricky | st.just("%(here)s %(program_name)s ; #"), max_size=4))
def test_every_argument_reaches_the_program_unchanged(root: Path, arguments: list[str]) -> None:
    command = ("/bin/echo", *arguments)

    assert tuple(shlex.split(as_supervisord_reads(root, service(command=command)).command)) == command


@given(value=printable | tricky)
def test_a_variable_reaches_the_program_unchanged_or_is_refused(root: Path, value: str) -> None:
    described = service(environment={"VALUE": value, "AFTER": "it"})

    if refused(described):
        assert any(each in value for each in ("'", '"', "#", ";", "%(here)s"))
    else:
        environment = as_supervisord_reads(root, described).environment
        assert (environment["VALUE"], environment["AFTER"]) == (value, "it")


@pytest.mark.parametrize(
    "value", ["", "100 %", "a=b,c=d", "it's", 'say "yes"!', "/a/b:/c", "grüße €", "%%", "a#b;c", " x "]
)
def test_ordinary_values_are_not_refused(root: Path, value: str) -> None:
    assert as_supervisord_reads(root, service(environment={"VALUE": value})).environment["VALUE"] == value


@pytest.mark.parametrize(
    "changes", [{"command": ("/bin/echo", "a\nb")}, {"environment": {"A": "a\nb"}}, {"directory": "/a\nb"}]
)
def test_a_line_end_cannot_smuggle_a_setting_in(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="service demo"):
        program_text(service(**changes), Layout.at("/srv/host"), "d")


def test_digest_follows_the_contents_of_the_files(tmp_path: Path) -> None:
    config = tmp_path / "demo.toml"
    described = service(files=(str(config),))
    config.write_text("a = 1")
    first = content_digest(described, {}, missing_ok=False)
    config.write_text("a = 2")
    second = content_digest(described, {}, missing_ok=False)
    config.write_text("a = 1")

    assert first != second
    assert content_digest(described, {}, missing_ok=False) == first


def test_digest_follows_what_is_read_once_it_is_there(tmp_path: Path) -> None:
    read = tmp_path / "superlink.crt"
    described = service(reads=[str(read), str(tmp_path)])
    without = content_digest(described, {}, missing_ok=False)

    read.write_text("first", "utf-8")
    first = content_digest(described, {}, missing_ok=False)
    second = content_digest(described, {str(read): "second"}, missing_ok=False)

    assert len({without, first, second}) == 3


def test_digest_follows_the_description() -> None:
    assert content_digest(service(priority=1), {}, missing_ok=False) != content_digest(
        service(priority=2), {}, missing_ok=False
    )


def test_a_missing_file_is_named_unless_it_may_be_missing(tmp_path: Path) -> None:
    described = service(files=(str(tmp_path / "none.toml"),))

    assert content_digest(described, {}, missing_ok=True)
    with pytest.raises(ConfigError, match=r"service demo: files names .*none.toml"):
        content_digest(described, {}, missing_ok=False)


def test_a_changed_digest_is_a_changed_definition_to_supervisord(root: Path) -> None:
    first = as_supervisord_reads(root, service(), "d1")

    assert first == as_supervisord_reads(root, service(), "d1")
    assert first != as_supervisord_reads(root, service(), "d2")


def test_secrets_are_masked_and_nothing_else_is() -> None:
    variables = {"DB_PASSWORD": "hunter22", "api_token": 'tok"en', "LEVEL": "info", "KEY_FILE": "/etc/key.pem"}
    text = program_text(service(environment=variables), Layout.at("/srv/host"), "d")

    shown = masked(text)

    assert "hunter22" in text
    assert "hunter22" not in shown
    assert "tok" + '"en' not in shown
    assert 'LEVEL="info"' in shown
    assert [line for line in shown.splitlines() if "environment" in line or "command" in line] == [
        line for line in text.splitlines() if "environment" in line or "command" in line
    ]


def test_secrets_are_known_by_their_names_and_paths_are_none() -> None:
    variables = {"DB_PASSWORD": "hunter22", "LEVEL": "info", "KEY_FILE": "/etc/key.pem"}

    assert secrets_of([service(environment=variables), service(environment={"DB_PASSWORD": "other-one"})]) == {
        "hunter22",
        "other-one",
    }


@pytest.mark.parametrize(
    "root", ["relative", "/with blank", "/per%cent", "/semi;colon", "/star*", "/a/../b", "/a\nb", "/qu'ote"]
)
def test_a_root_that_supervisord_cannot_take_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold a supervisord"):
        Layout.at(root)


def test_a_root_too_long_for_a_socket_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigError, match="bytes too long") as caught:
        Layout.at("/" + "long/" * 20)

    assert "icosfl_home" in caught.value.cure
    assert Layout.at("/home/someone/projects/icosfl/.state/local/worker-1")
