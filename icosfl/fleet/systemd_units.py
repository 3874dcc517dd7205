"""From a service to what systemd reads: where its files lie, and the text of its hardened unit.

Pure but for `UnitLayout`'s readers. A unit shows its service a machine that is read-only, without other users' homes
and devices, and of the host's own root only what the description names: so no service can read another one's keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from icosfl.errors import ConfigError
from icosfl.fleet.alive import LOOK_SECONDS
from icosfl.fleet.service import Limits, Service
from icosfl.fleet.variables import variables

UNITS = Path("/etc/systemd/system")

_FIRST_WITH_STEPS = 254  # systemd: RestartSteps
_ROOT = re.compile(r"/[\w./-]+")
_PREFIX = re.compile(r"[a-z][a-z0-9-]{0,30}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BARE = re.compile(r"[\w@+=:,./-]+")
MARK = "X-Icosfl-Root="  # in a unit: whose it is

_SERVICE = """\
# Written by Ansible: changes are lost.
[Unit]
Description={description}
{order}PartOf={target}
# However long what it needs is away, it is started again.
StartLimitIntervalSec=0
{mark}{root}
X-Icosfl-Digest={digest}

[Service]
Type=exec
ExecStart={command}
{environment}WorkingDirectory={directory}
User={user}
Group={user}
Restart=always
{back_off}TimeoutStopSec={stop_seconds}
KillMode=control-group
SyslogIdentifier={name}
{limits}
{sandbox}{view}
[Install]
WantedBy={target}
"""

_TARGET = """\
# Written by Ansible: changes are lost. Starts and stops all services of this host.
[Unit]
Description=icosfl services of {root}
{mark}{root}

[Install]
WantedBy=multi-user.target
"""

_HEALTH_TIMER = """\
# Written by Ansible: changes are lost.
[Unit]
Description=Looks whether the icosfl services of {root} work
PartOf={target}
{mark}{root}

[Timer]
OnActiveSec={seconds}s
OnUnitInactiveSec={seconds}s
AccuracySec=5s

[Install]
WantedBy={target}
"""

_HEALTH = """\
# Written by Ansible: changes are lost.
[Unit]
Description=Restarts icosfl services of {root} that run and do not work
{mark}{root}

[Service]
Type=oneshot
ExecStart={command}
TimeoutStartSec=120
RuntimeDirectory={name}
RuntimeDirectoryPreserve=yes
SyslogIdentifier=health
# What it says counts, that it runs twice a minute does not.
SyslogLevel=notice
LogLevelMax=notice
MemoryMax=256M
CPUWeight=20

{sandbox}CapabilityBoundingSet=
ProcSubset=pid
ProtectProc=invisible
"""

# True for every unit of ours, whatever it runs. Two are left out because of PyTorch: MemoryDenyWriteExecute, since its
# LSTM is compiled when it runs ("could not create a primitive"), and ProcSubset=pid, since without /proc/cpuinfo it
# computes as on the oldest processor.
_SANDBOX = """\
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateMounts=yes
PrivateDevices=yes
DevicePolicy=closed
NoNewPrivileges=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
UMask=0077
LimitCORE=0
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_UNPRIVILEGED = """\
CapabilityBoundingSet=
AmbientCapabilities=
ProtectProc=invisible
"""

# It measures the machine. The energy counters below /sys are root's alone, so it may read what is not its own, but not
# what opens this machine to others.
_SEES_HOST = """\
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
AmbientCapabilities=CAP_DAC_READ_SEARCH
InaccessiblePaths=-/etc/shadow -/etc/gshadow -/etc/shadow- -/etc/gshadow- -/etc/ssh -/etc/ssl/private
"""


@dataclass(frozen=True, slots=True)
class UnitLayout:
    """Where the files of one host's units lie. Several hosts may share a machine, each with its own root and prefix."""

    root: Path
    prefix: str
    user: str

    @classmethod
    def at(cls, root: str, prefix: str, user: str) -> UnitLayout:
        """Check the host's root directory, which need not exist, and its names.

        Raises:
            ConfigError: One of them cannot stand in a unit.
        """
        if not _ROOT.fullmatch(root) or ".." in Path(root).parts:
            raise ConfigError(
                f"root {root!r} cannot hold systemd services",
                cure="give an absolute path of letters, digits, _ . and -",
            )
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError(f"unit_prefix is {prefix!r}", cure="use lower-case letters, digits and -")
        if not _USER.fullmatch(user):
            raise ConfigError(f"user is {user!r}", cure="name the system user of the services, icosfl_user")
        return cls(Path(root), prefix, user)

    @property
    def own(self) -> Path:
        """What the deployment keeps for itself; only root may enter it."""
        return self.root / "systemd"

    @property
    def target(self) -> str:
        """The unit that starts and stops all services of the host."""
        return f"{self.prefix}.target"

    @property
    def health(self) -> str:
        """The watchdog's unit, without its type."""
        return f"{self.prefix}-health"

    @property
    def guard(self) -> str:
        """The unit that guards the network of the host's containers, while they are its services."""
        return f"{self.prefix}-guard.service"

    @property
    def run(self) -> Path:
        """What the watchdog remembers until the machine is switched off: its RuntimeDirectory."""
        return Path("/run") / self.health

    def unit(self, name: str) -> str:
        """The unit of a service."""
        return f"{self.prefix}-{name}.service"

    def file(self, unit: str) -> Path:
        """The file of a unit."""
        return UNITS / unit

    def link(self, unit: str) -> Path:
        """The link that starts a unit with its host, or the target with the machine."""
        return UNITS / f"{'multi-user.target' if unit == self.target else self.target}.wants" / unit

    def record(self, name: str) -> Path:
        """What was installed; exists while the service is installed."""
        return self.own / f"{name}.json"

    def installed(self) -> tuple[Record, ...]:
        """Return what is installed here, in the order of start; none when there is no root.

        Raises:
            ConfigError: A record was damaged.
        """
        records = [self.read(path) for path in sorted(self.own.glob("*.json"))]
        return tuple(sorted(records, key=lambda record: record.service.priority))

    def read(self, path: Path) -> Record:
        """Return the record in a file.

        Raises:
            ConfigError: It cannot be read, or was damaged.
        """
        try:
            record = json.loads(path.read_text("utf-8"))
            return Record(Service.of(record["service"]), record["digest"], record["boot"], record["since"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: {error}", cure="deploy the service again") from error


@dataclass(frozen=True, slots=True)
class Record:
    """A service as it was installed: whatever started before `since` (in the boot `boot`) runs by an older definition.

    Args:
        service: Its description.
        digest: Of the definition: of the unit without its limits, and of the contents of its files.
        boot: The id of the machine's boot.
        since: Microseconds of the monotonic clock.
    """

    service: Service
    digest: str
    boot: str
    since: int

    def text(self) -> str:
        """Return what is written of it."""
        return json.dumps({**asdict(self), "service": self.service.description_dict()}, indent=2) + "\n"

    def outdates(self, boot: str, started: int) -> bool:
        """Return whether a process that started then, in microseconds, runs by an older definition."""
        return self.boot == boot and 0 < started <= self.since


def service_text(service: Service, layout: UnitLayout, version: int, digest: str) -> str:
    """Return the unit of a service.

    Args:
        service: The service.
        layout: The host's files.
        version: Of systemd.
        digest: Of the definition.

    Raises:
        ConfigError: A value cannot be written in a unit, or is a secret, which everybody could read there.
    """
    needed = " ".join(layout.unit(name) for name in service.needs)
    directory = service.directory or str(layout.root)
    return _SERVICE.format(
        description=_plain(service, "description", service.description or service.name),
        order=f"After=network.target {needed}\nWants={needed}\n" if needed else "After=network.target\n",
        target=layout.target,
        mark=MARK,
        root=layout.root,
        digest=digest,
        command=_command(service),
        environment="".join(_variables(service, directory)),
        directory=_path(service, "directory", directory),
        user=layout.user,
        back_off=_back_off(version),
        stop_seconds=max(service.stop_seconds, 1),
        name=service.name,
        limits="".join(_limits(service.limits)),
        sandbox=_SANDBOX,
        view="".join(_view(service, layout)) + (_SEES_HOST if service.sees_host else _UNPRIVILEGED),
    )


def host_texts(layout: UnitLayout, python: str) -> dict[str, str]:
    """Return the units that belong to no single service, by unit: the target, and the watchdog with its timer.

    Args:
        layout: The host's files.
        python: The interpreter that has icosfl.
    """
    values = {"root": layout.root, "target": layout.target, "mark": MARK, "name": layout.health}
    watch = f"{python} -I -m icosfl.fleet.watchdog --root {layout.root} --prefix {layout.prefix} --user {layout.user}"
    return {
        layout.target: _TARGET.format(**values),
        f"{layout.health}.timer": _HEALTH_TIMER.format(**values, seconds=LOOK_SECONDS),
        f"{layout.health}.service": _HEALTH.format(**values, command=watch, sandbox=_SANDBOX),
    }


def refuse_stranger(unit: str, text: str, layout: UnitLayout) -> None:
    """Refuse to touch a unit that is not this host's.

    Args:
        unit: Its name.
        text: What its file says now; "" when there is none.
        layout: The host's files.

    Raises:
        ConfigError: It belongs to another host of this machine, or to somebody else.
    """
    owner = _owner(text)
    if text and owner != str(layout.root):
        raise ConfigError(
            f"unit {unit} belongs to {owner or 'somebody else'}",
            cure="give this host another icosfl_slot or icosfl_unit_prefix",
        )


def marked(text: str, layout: UnitLayout) -> bool:
    """Return whether a unit is this host's."""
    return _owner(text) == str(layout.root)


def _owner(text: str) -> str:
    return next((line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)), "")


def _back_off(version: int) -> str:
    if version < _FIRST_WITH_STEPS:
        return "RestartSec=5\n"
    return "RestartSec=1\nRestartSteps=6\nRestartMaxDelaySec=60\n"


def _limits(limits: Limits) -> Iterator[str]:
    """Limits of the machine's resources; weights count only while there is too little."""
    names = {
        "memory_max_mb": "MemoryMax={}M\n",
        "cpu_quota_percent": "CPUQuota={}%\n",
        "cpu_weight": "CPUWeight={}\n",
        "io_weight": "IOWeight={}\n",
        "tasks_max": "TasksMax={}\n",
    }
    for name, value in limits.stated().items():
        yield names[name].format(value)


def _view(service: Service, layout: UnitLayout) -> Iterator[str]:
    """Of the host's root only what the description names; a path that is missing then is the service's to tell."""
    yield f"TemporaryFileSystem={layout.root}:ro,mode=0755\n"
    for path in (*service.files, *service.reads):
        bound = _path(service, "files", path)
        if Path(path).is_relative_to(layout.root):  # others can be seen anyway
            yield f"BindReadOnlyPaths=-{bound}\n"
    for path in service.writes:
        yield f"BindPaths=-{_path(service, 'writes', path)}\n"
        yield f"ReadWritePaths=-{path}\n"


def _variables(service: Service, directory: str) -> Iterator[str]:
    for name, value in variables(service, directory, "a unit").items():
        yield f"Environment={_quoted(f'{name}={value}')}\n"


def _command(service: Service) -> str:
    for word in service.command:
        if _CONTROL.search(word):
            raise _refuse(service, "command", "has a line end or another control character")
    program, *arguments = service.command
    if not program.startswith("/") or not _BARE.fullmatch(program):
        raise _refuse(service, "command", f"begins with {program!r}, which is no plain absolute path")
    # A lone ; would begin another command: _quoted quotes it.
    return " ".join([program, *(_quoted(word).replace("$", "$$") for word in arguments)])


def _quoted(word: str) -> str:
    if _BARE.fullmatch(word):
        return word.replace("%", "%%")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _plain(service: Service, key: str, value: str) -> str:
    if _CONTROL.search(value) or value.endswith("\\"):
        raise _refuse(service, key, f"is {value!r}")
    return value.replace("%", "%%")


def _path(service: Service, key: str, value: str) -> str:
    if not re.fullmatch(r"/[\w@+=,./-]*", value):
        raise _refuse(service, key, f"has {value!r}")
    return value


def _refuse(service: Service, key: str, why: str) -> ConfigError:
    return ConfigError(
        f"service {service.name}: {key} {why}: systemd cannot take it",
        cure="put it into one of the service's files, or take a plainer path",
    )
