"""One call of the command line: which fleet it means, and whether a person or a program reads the answer.

Heavy parts are imported by the method that needs them, so that help and errors come at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from icosfl.errors import UserError

if TYPE_CHECKING:
    from icosfl.fleet.inventory import Fleet, Host
    from icosfl.fleet.runner import PlaybookResult
    from icosfl.fleet.watch import Reading

DEFAULT_INVENTORY = "inventories/local"
LOG_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Session:
    """What the options before and after the verb say together.

    Args:
        inventory: A path or the name of an environment.
        as_json: Whether a program reads.
    """

    inventory: str = DEFAULT_INVENTORY
    as_json: bool = False

    def also(self, inventory: str | None, as_json: bool) -> Session:
        """The session with a verb's own options."""
        return Session(inventory or self.inventory, as_json or self.as_json)

    @property
    def screen(self) -> Console:
        """Where people read; silent when a program does."""
        console = Console(highlight=False, quiet=self.as_json)
        return console if console.is_terminal else Console(highlight=False, quiet=self.as_json, width=LOG_WIDTH)

    def print_json(self, value: object) -> None:
        """Print the result for programs."""
        from icosfl.fleet.plain import plain

        sys.stdout.write(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def place(self) -> tuple[Path, Path]:
        """The inventory's path and the project's.

        Raises:
            InventoryError: there is no such inventory or no project.
        """
        from icosfl.fleet.inventory import find_inventory, find_project

        project = find_project(Path.cwd())
        return find_inventory(self.inventory, project), project

    def fleet(self) -> Fleet:
        """The inventory's hosts.

        Raises:
            InventoryError: a host, group or variable is wrong.
        """
        from icosfl.fleet.inventory import load_fleet

        return load_fleet(*self.place())

    def hosts(self, name: str | None, fleet: Fleet | None = None) -> tuple[Host, ...]:
        """The host called `name`, or all of them; the fleet is read unless it is given.

        Raises:
            InventoryError: a host, group or variable is wrong.
            UserError: no host is called so.
        """
        hosts = (fleet or self.fleet()).hosts
        chosen = tuple(host for host in hosts if name is None or host.name == name)
        if not chosen:
            known = ", ".join(host.name for host in hosts)
            raise UserError(f"no host of {self.inventory} is called {name}", cure=f"use one of {known}")
        return chosen

    def run(
        self,
        playbook: str,
        variables: Mapping[str, Any] | None = None,
        *,
        limit: str | None = None,
        keep_logs: bool = True,
    ) -> PlaybookResult:
        """Run a playbook of the project with its progress on the screen.

        Raises:
            RunFailed: it cannot be run at all; one that ends badly is a result.
        """
        from icosfl.fleet.display import display_for
        from icosfl.fleet.runner import Playbook, run_playbook

        inventory, project = self.place()
        display = display_for(self.screen, quiet=self.as_json, lines=playbook != "site")
        with display.shown():
            return run_playbook(Playbook(playbook, inventory, project, variables or {}, limit, keep_logs), display)

    def tell(self, result: PlaybookResult, **more: object) -> int:
        """Show how a playbook ended, and whatever more a program gets; returns the exit code."""
        from icosfl.fleet.display import result_screen
        from icosfl.fleet.plain import plain

        if self.as_json:
            self.print_json(plain(result) | more)
        self.screen.print(result_screen(result))
        return result.exit_code

    def follow(self, found: Iterator[tuple[Reading, ...]]) -> None:
        """Show readings as they come: a table, lines for a log, or a JSON line each."""
        from icosfl.fleet.live import show_lines, show_table
        from icosfl.fleet.plain import plain

        if self.as_json:
            for readings in found:
                sys.stdout.write(json.dumps(plain(readings), allow_nan=False) + "\n")
                sys.stdout.flush()
        elif self.screen.is_terminal:
            show_table(self.screen, found)
        else:
            show_lines(self.screen, found)

    def counter(self) -> Callable[[int, int], None] | None:
        """Shows how much of a whole is done, where somebody looks on."""
        screen = self.screen
        if self.as_json or not screen.is_terminal:
            return None
        return lambda done, total: screen.print(f"{done} of {total} rows", end="\r" if done < total else "\n")
