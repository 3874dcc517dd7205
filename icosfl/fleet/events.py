"""From the events of a running playbook to what a person wants to know of them: pure functions on plain values.

`interpret` makes a step of one event (as ansible-runner hands them over), `Tally` counts steps.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from icosfl.fleet.unreachable import NO_RELEASE, cause_of, lacks_release

Outcome = Literal["ok", "changed", "skipped", "failed", "unreachable"]

HIDDEN = "the result is hidden, because the task handles secrets"
_CURE_IN_MESSAGE = re.compile(r"^(?P<message>.+?)\s*\((?:cure: )?(?P<cure>[^()]*\s[^()]*)\)\.?$", re.DOTALL)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SPEAKING_ACTIONS = ("ansible.builtin.debug", "debug")
_PROVING_ACTIONS = ("hop",)  # whose answers are lines for a person
_REPORTING_ACTIONS = ("node_report", "federated_run")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a host stopped: in which task, with which message, and what cures it ("" when the task does not say).

    `kind` tells that Ansible could not even work there: it had no access, or the host has no release.
    """

    host: str
    play: str
    task: str
    message: str
    cure: str = ""
    kind: Literal["", "no access", "no release"] = ""


@dataclass(frozen=True, slots=True)
class PlayStarted:
    """A play began."""

    name: str


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A task or handler began on the play's hosts."""

    name: str


@dataclass(frozen=True, slots=True)
class HostDone:
    """A host finished a task.

    `lines` are what the task says to a person, `ignored` a failure that may happen, `report` what it says to a program:
    by the module node_report what the host was asked for, by federated_run what came of the run.
    """

    host: str
    outcome: Outcome
    lines: tuple[str, ...] = ()
    failure: Failure | None = None
    ignored: bool = False
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ItemDone:
    """A host finished one item of a loop."""

    host: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostRecap:
    """How many tasks of a playbook ended how on one host."""

    host: str
    ok: int
    changed: int
    skipped: int
    failed: int
    unreachable: int


@dataclass(frozen=True, slots=True)
class Recapped:
    """The playbook ended."""

    hosts: tuple[HostRecap, ...]


Step = PlayStarted | TaskStarted | HostDone | ItemDone | Recapped

_OUTCOMES: dict[str, Outcome] = {
    "runner_on_ok": "ok",
    "runner_on_skipped": "skipped",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
}


def interpret(event: Mapping[str, Any]) -> Step | None:
    """Return what happened, or None for an event that tells a person nothing."""
    kind, data = event.get("event"), event.get("event_data") or {}
    action = str(data.get("task_action", ""))
    match kind:
        case "playbook_on_play_start":
            return PlayStarted(str(data.get("name") or data.get("play") or ""))
        case "playbook_on_task_start" | "playbook_on_handler_task_start":
            return TaskStarted(str(data.get("task", "")))
        case "runner_item_on_ok":
            return ItemDone(str(data.get("host", "")), tuple(_lines(data, action)))
        case "playbook_on_stats":
            return Recapped(tuple(_recaps(data)))
        case _ if kind in _OUTCOMES:
            return _host_done(_OUTCOMES[str(kind)], data, action)
        case _:
            return None


def _host_done(outcome: Outcome, data: Mapping[str, Any], action: str) -> HostDone:
    host, result = str(data.get("host", "")), data.get("res") or {}
    if outcome in {"failed", "unreachable"}:
        where = (host, str(data.get("play", "")), str(data.get("task", "")))
        failure = _no_work(where, result, unreachable=outcome == "unreachable") or Failure(*where, *explain(result))
        return HostDone(host, outcome, failure=failure, ignored=bool(data.get("ignore_errors")))
    if outcome == "ok":
        outcome = "changed" if result.get("changed") else "ok"
        looped = "results" in result  # its items have spoken already
        report = result.get("report") if action in _REPORTING_ACTIONS else None
        return HostDone(host, outcome, () if looped else tuple(_lines(data, action)), report=report)
    return HostDone(host, outcome)


def _no_work(where: tuple[str, str, str], result: Mapping[str, Any], *, unreachable: bool) -> Failure | None:
    """The failure of a host on which Ansible could not work, in our words; None when it could, or nobody knows."""
    text = "\n".join(str(result.get(key) or "") for key in ("msg", "module_stderr", "module_stdout"))
    cause, cure = cause_of(text, unreachable=unreachable)
    if cause:
        return Failure(*where, cause, cure, "no access")
    if lacks_release(text, result.get("rc")):
        return Failure(*where, NO_RELEASE, "icosfl up", "no release")
    return None


def explain(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the message and the cure that a failed task's result states."""
    if result.get("_ansible_no_log") or "censored" in result:
        return HIDDEN, str(result.get("cure", ""))
    items = [item for item in result.get("results", []) if isinstance(item, Mapping) and item.get("failed")]
    if items:
        return explain(items[0])
    for answer in _json_lines(result):
        if isinstance(answer.get("error"), str):  # a program of ours that failed says so itself
            return answer["error"], str(answer.get("cure", ""))
    message = str(result.get("msg", "")).strip() or "the task gave no reason"
    if result.get("cure"):
        return message.removesuffix(f"({result['cure']})").strip(), str(result["cure"])
    message += "".join(f"\n{detail}" for detail in _details(result, message))
    return _split_cure(message)


def _split_cure(message: str) -> tuple[str, str]:
    """Split a message of one problem into what is wrong and what to do; several problems stay as they are."""
    if message.count(" Cure: ") == 1:
        wrong, _, cure = message.partition(" Cure: ")
        return wrong, cure
    if " Cure: " in message:
        return message, "correct all of these; each line says how"
    found = _CURE_IN_MESSAGE.match(message)
    return (found["message"], found["cure"]) if found else (message, "")


def _details(result: Mapping[str, Any], message: str) -> Iterator[str]:
    """What a result says beside its message: argument errors, or the end of a command's output."""
    for problem in result.get("argument_errors", []):
        if str(problem) not in message:
            yield str(problem)
    if result.get("rc") and result.get("cmd"):
        command = result["cmd"]
        yield f"command: {command if isinstance(command, str) else shlex.join(map(str, command))}"
    for stream in ("stderr", "module_stderr", "stdout", "module_stdout"):
        text = str(result.get(stream) or "").strip()
        if text:
            yield from text.splitlines()[-5:]
            return


def _lines(data: Mapping[str, Any], action: str) -> Iterator[str]:
    """What a result says to a person: its `line`, that of JSON on its output, or what a speaking module says."""
    result = data.get("res") or {}
    if result.get("_ansible_no_log"):
        return
    if isinstance(result.get("line"), str):
        yield from result["line"].splitlines()
    if action in _PROVING_ACTIONS:
        yield from (f"{data.get('host')}: {answer}" for answer in result.get("answers", []))
    if action in _SPEAKING_ACTIONS:
        said = result.get("msg", "")
        yield from (str(part) for part in (said if isinstance(said, list) else [said]))
    for answer in _json_lines(result):
        if isinstance(answer.get("line"), str):
            yield answer["line"]


def _json_lines(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The JSON objects that a program printed, one a line."""
    for text in str(result.get("stdout") or "").splitlines():
        with suppress(ValueError):
            value = json.loads(text)
            if isinstance(value, dict):
                yield value


def _recaps(data: Mapping[str, Any]) -> Iterator[HostRecap]:
    for host in sorted(data.get("processed") or {}):
        ok, changed, skipped, failed, unreachable = (
            int((data.get(key) or {}).get(host, 0)) for key in ("ok", "changed", "skipped", "failures", "dark")
        )
        yield HostRecap(host, ok, changed, skipped, failed, unreachable)


def strip_colour(text: str) -> str:
    """Return a terminal's text without its colours."""
    return _ANSI.sub("", text)


@dataclass(slots=True)
class Tally:
    """What has happened so far in a playbook.

    A failure counts once its host is counted as failed at the end, so that a rescued one does not.
    """

    play: str = ""
    task: str = ""
    hosts: dict[str, Outcome] = field(default_factory=dict)
    counts: dict[Outcome, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    recap: tuple[HostRecap, ...] = ()

    def add(self, step: Step) -> None:
        """Count one step; a new play begins new counts, a new task a new set of hosts."""
        match step:
            case PlayStarted(name):
                self.play, self.task = name, ""
                self.hosts, self.counts = {}, {}
            case TaskStarted(name):
                self.task, self.hosts = name, {}
            case HostDone():
                outcome = "ok" if step.ignored else step.outcome
                self.hosts[step.host] = outcome
                self.counts[outcome] = self.counts.get(outcome, 0) + 1
                self.lines += step.lines
                if step.report is not None:
                    self.reports[step.host] = step.report
                if step.failure and not step.ignored:
                    self.failures.append(step.failure)
            case ItemDone(lines=lines):
                self.lines += lines
            case Recapped(hosts):
                self.recap = hosts
                stopped = {host.host for host in hosts if host.failed or host.unreachable}
                self.failures = [failure for failure in self.failures if failure.host in stopped]
