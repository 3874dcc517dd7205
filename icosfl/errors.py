"""All errors that icosfl raises on purpose, and how they are related.

    IcosflError
    ├── UserError               something that the user gave is wrong and the user can cure it
    │   ├── ConfigError         a key in a configuration file or the run configuration
    │   ├── InventoryError      a host, group or variable of the inventory
    │   └── InputError          a recorded trace or another input file
    ├── DataError               data that cannot be used as it is
    │   ├── NotReady            too few, too old or no rows: a matter of time or of a dead sender
    │   │   └── Busy            somebody else's run: a matter of its end
    │   ├── SchemaMismatch      series, units or shapes that do not belong together
    │   └── CheckpointError     a model file that is damaged or of another kind
    ├── Unavailable             a service that does not answer in time
    │   ├── StoreUnavailable    the object store
    │   ├── SpoolFull           the bridge's spool has no room
    │   │   └── SpoolTooSmall   nor will it ever have: what is to be spooled is larger than the spool
    │   └── SpoolFailed         the disk refuses what the bridge's spool wants of it
    └── RunFailed               a federated run, a playbook or a service that ended badly

Every error carries `cure`, one sentence that says what to do, and its class carries the process exit code.
Foreign exceptions are translated where they enter: `raise StoreUnavailable(...) from error`.
"""

from __future__ import annotations

from typing import ClassVar


class IcosflError(Exception):
    """Something that icosfl can name.

    Args:
        message: What is wrong: names the key, file, host or service, and what was expected.
        cure: What the reader can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message} ({self.cure})" if self.cure else self.message


class UserError(IcosflError):
    """Something that the user gave is wrong."""

    exit_code = 2


class ConfigError(UserError):
    """A key in a configuration file or in the run configuration is missing or wrong."""

    exit_code = 3


class InventoryError(UserError):
    """A host, group or variable of the inventory is wrong."""

    exit_code = 4


class InputError(UserError):
    """An input file, for example a recorded trace, cannot be read as what it should be."""

    exit_code = 5


class DataError(IcosflError):
    """Data that cannot be used as it is."""

    exit_code = 10


class NotReady(DataError):
    """Too few, too old or no rows for what was asked."""

    exit_code = 11


class Busy(NotReady):
    """Another run is under way, or somebody else is submitting one."""


class SchemaMismatch(DataError):
    """Series, units or shapes that do not belong together."""

    exit_code = 12


class CheckpointError(DataError):
    """A model file that is damaged or of another kind."""

    exit_code = 13


class Unavailable(IcosflError):
    """A service that does not answer in time."""

    exit_code = 20


class StoreUnavailable(Unavailable):
    """The object store does not answer, or lost the object."""

    exit_code = 21


class SpoolFull(Unavailable):
    """The bridge's spool, or its disk, has no room for more."""

    exit_code = 22


class SpoolTooSmall(SpoolFull):
    """What is to be spooled is larger than the bridge's whole spool: another try will not help."""


class SpoolFailed(Unavailable):
    """The disk refuses what the bridge's spool wants of it."""

    exit_code = 23


class RunFailed(IcosflError):
    """A federated run, a playbook or a service that ended badly."""

    exit_code = 30
