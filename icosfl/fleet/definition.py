"""From a service to what supervisord reads: where its files lie, and the text of its program section.

Pure but for `content_digest` and `Layout`'s readers. Supervisord's ini has no way to write some texts (line ends,
both quotes in one variable, a blank before # or ;): those are refused by name rather than cut short in silence.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import ConfigError
from icosfl.fleet.service import Service

DIGEST_VARIABLE = "ICOSFL_SERVICE_DIGEST"

# Supervisord waits one second longer after each start that fails within `startsecs`, and gives a program up for good
# after `startretries`: with so many it never does, and a service comes back by itself however long what it needs was
# away.
_SECONDS_UP_TO_COUNT_AS_STARTED = 3
_RETRIES = 1_000_000

_LONGEST_SOCKET_PATH = 107  # bytes, of sockaddr_un
_SUPERVISORD_SOCKET_SUFFIX = len(".4194304")  # it binds <socket>.<pid> first
_ROOT = re.compile(r"/[^\s%;#*?\[\]'\",]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COMMENT = re.compile(r"\s[#;]")
_SECRET = re.compile("PASS|SECRET|TOKEN|CREDENTIAL|KEY", re.IGNORECASE)
_VARIABLE_LINE = re.compile(r"""^(\s+)(\w+)=(?:"[^"\n]*"|'[^'\n]*')(,?)$""", re.MULTILINE)

_PROGRAM = """\
; Written by Ansible: changes are lost.
[program:{name}]
command={command}
directory={directory}
environment=
{environment}
priority={priority}
autostart=true
autorestart=true
startsecs={startsecs}
startretries={startretries}
stopsignal=TERM
stopwaitsecs={stop_seconds}
stopasgroup=true
killasgroup=true
umask=077
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=2
"""

_DAEMON = """\
; Written by Ansible: changes are lost.
[supervisord]
logfile={daemon_log}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={pidfile}
childlogdir={supervisor}
directory={root}
umask=077
{user}
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files=conf.d/*.ini
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of one host's supervisord lie. Several hosts may share a machine, each with its own root."""

    root: Path

    @classmethod
    def at(cls, root: str) -> Layout:
        """Check the host's root directory; it need not exist.

        Raises:
            ConfigError: The path is not absolute, too long for a socket below it, or has characters that supervisord
                cannot take.
        """
        layout = cls(Path(root))
        if not _ROOT.fullmatch(root) or _CONTROL.search(root) or ".." in layout.root.parts:
            raise ConfigError(
                f"root {root!r} cannot hold a supervisord",
                cure="give an absolute path without blanks, quotes, commas and any of % ; # * ? [ ]",
            )
        too_long = len(bytes(layout.socket)) + _SUPERVISORD_SOCKET_SUFFIX - _LONGEST_SOCKET_PATH
        if too_long > 0:
            raise ConfigError(
                f"root {root} is {too_long} bytes too long: the socket {layout.socket} would exceed what Linux takes",
                cure="set icosfl_home to a shorter path",
            )
        return layout

    @property
    def supervisor(self) -> Path:
        """Everything that is supervisord's own; only the owner may enter it."""
        return self.root / "supervisor"

    @property
    def config(self) -> Path:
        """Supervisord's own configuration file."""
        return self.supervisor / "supervisord.conf"

    @property
    def socket(self) -> Path:
        """The socket that it takes orders on; short, because sockets' paths must be."""
        return self.supervisor / "sock"

    @property
    def pidfile(self) -> Path:
        """Its process id; stays behind when it is killed."""
        return self.supervisor / "supervisord.pid"

    @property
    def logs(self) -> Path:
        """One rotated file for each service, and supervisord's own."""
        return self.root / "log"

    @property
    def daemon_log(self) -> Path:
        """Supervisord's own log."""
        return self.logs / "supervisord.log"

    def log(self, name: str) -> Path:
        """The log of a service."""
        return self.logs / f"{name}.log"

    def program(self, name: str) -> Path:
        """The section that supervisord reads; exists while the service is meant to run."""
        return self.supervisor / "conf.d" / f"{name}.ini"

    def description(self, name: str) -> Path:
        """The service's description, kept to know its health check; exists while the service is installed."""
        return self.supervisor / "services" / f"{name}.json"

    def programs(self) -> tuple[str, ...]:
        """The names of the services that are meant to run."""
        return tuple(sorted(path.stem for path in self.program("x").parent.glob("*.ini")))

    def installed(self) -> tuple[Service, ...]:
        """Return the services that are installed here, in their order of start; none when there is no root.

        Raises:
            ConfigError: A description was damaged.
        """
        services = [self.read(path.stem) for path in sorted(self.description("x").parent.glob("*.json"))]
        return tuple(sorted(services, key=lambda service: service.priority))

    def read(self, name: str) -> Service:
        """Return the description of an installed service.

        Raises:
            ConfigError: There is none, or it was damaged.
        """
        path = self.description(name)
        try:
            return Service.of(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}", cure="deploy the service again") from error


def content_digest(service: Service, contents: Mapping[str, str], *, missing_ok: bool) -> str:
    """Return the digest of a service's description and of the contents of its files, and of those that it reads.

    Limits are left out: a runtime that knows them changes them while the service runs.

    Args:
        service: The service.
        contents: Files, by path, that are about to be written; the others are read.
        missing_ok: Take a missing file for an empty one (before the first deployment, in check mode).

    Raises:
        ConfigError: A file is missing or cannot be read.
    """
    description = {key: value for key, value in service.description_dict().items() if key != "limits"}
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in (*service.files, *(each for each in service.reads if each in contents or Path(each).is_file())):
        path = Path(name)
        if missing_ok and name not in contents and not path.exists():
            continue
        try:
            content = hashlib.sha256(contents[name].encode() if name in contents else path.read_bytes()).hexdigest()
        except OSError as error:
            raise ConfigError(
                f"service {service.name}: files names {name}: {error.strerror}", cure="let the role render it before"
            ) from error
        digest.update(f"\n{name} {content}".encode())
    return digest.hexdigest()[:32]


def program_text(service: Service, layout: Layout, digest: str) -> str:
    """Return the program section of a service.

    Raises:
        ConfigError: A value cannot be written in supervisord's ini; names the service and the key.
    """
    variables = {**service.environment, DIGEST_VARIABLE: digest}
    return _PROGRAM.format(
        name=service.name,
        command=" ".join(_argument(service, each) for each in service.command),
        directory=_plain(service, "directory", service.directory or str(layout.root)),
        environment=",\n".join(f"    {name}={_variable(service, name, variables[name])}" for name in sorted(variables)),
        priority=service.priority,
        startsecs=_SECONDS_UP_TO_COUNT_AS_STARTED,
        startretries=_RETRIES,
        stop_seconds=service.stop_seconds,
        log=_plain(service, "log", str(layout.log(service.name))),
    )


def daemon_text(layout: Layout, user: str) -> str:
    """Return supervisord's configuration; `user` is who runs it, stated only for root, whom it warns otherwise."""
    return _DAEMON.format(
        daemon_log=layout.daemon_log,
        pidfile=layout.pidfile,
        supervisor=layout.supervisor,
        root=layout.root,
        socket=layout.socket,
        user=f"user={user}\n" if user == "root" else "",
    )


def masked(text: str) -> str:
    """Return a program section without the values of variables whose names speak of secrets."""
    return _VARIABLE_LINE.sub(
        lambda line: f'{line[1]}{line[2]}="********"{line[3]}' if _SECRET.search(line[2]) else line[0], text
    )


def secrets_of(services: Iterable[Service]) -> set[str]:
    """Return the values of variables whose names speak of secrets; paths to secrets are none."""
    variables = [variable for service in services for variable in service.environment.items()]
    return {value for name, value in variables if _SECRET.search(name) and len(value) > 3 and not value.startswith("/")}


def _refuse(service: Service, key: str, why: str) -> ConfigError:
    return ConfigError(
        f"service {service.name}: {key} {why}, which supervisord cannot take",
        cure="put it into one of the service's files",
    )


def _plain(service: Service, key: str, value: str) -> str:
    if _CONTROL.search(value) or _COMMENT.search(value) or value != value.strip() or "%(here)s" in value:
        raise _refuse(service, key, f"is {value!r}")
    return value.replace("%", "%%")


def _argument(service: Service, value: str) -> str:
    if _CONTROL.search(value):
        raise _refuse(service, "command", "has a line end or another control character")
    quoted = shlex.quote(value).replace("%", "%%").replace("(here)", "(he''re)")
    return _COMMENT.sub(lambda found: f"{found[0][0]}''{found[0][1]}", quoted)


def _variable(service: Service, name: str, value: str) -> str:
    key = f"environment.{name}"
    if _CONTROL.search(value):
        raise _refuse(service, key, "has a line end or another control character")
    if _COMMENT.search(value) or "%(here)s" in value:
        raise _refuse(service, key, "has a blank before # or ;, or %(here)s")
    if value[:1] in {"'", '"'} or value[-1:] in {"'", '"'} or ("'" in value and '"' in value):
        raise _refuse(service, key, "begins or ends with a quote or has both kinds of quotes")
    quote = "'" if '"' in value else '"'
    return quote + value.replace("%", "%%") + quote
