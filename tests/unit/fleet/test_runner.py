from __future__ import annotations

import os
import signal
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from icosfl.errors import RunFailed
from icosfl.fleet.display import PlainDisplay, display_for, result_screen
from icosfl.fleet.events import HostDone, Step, Tally
from icosfl.fleet.runner import Playbook, PlaybookResult, _Run, run_playbook

HOSTS = """
all:
  vars: { ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}" }
  hosts: { control: , worker-1: }
"""
SPEAKS = """
- name: Tell the rounds
  hosts: all
  gather_facts: false
  tasks:
    - name: train | Await the rounds
      ansible.builtin.debug:
        msg: "round {{ item }} on {{ secret | default('nobody') }}"
      loop: [1, 2]
      run_once: true
    - name: train | Mark
      ansible.builtin.debug:
        msg: "{{ inventory_hostname }} is done"
      changed_when: inventory_hostname == 'worker-1'
"""
FAILS = """
- name: Start the services
  hosts: all
  gather_facts: false
  tasks:
    - name: service | Start redis
      ansible.builtin.assert:
        that: inventory_hostname != 'worker-1'
        fail_msg: "worker-1: redis: port 6479 is busy. Cure: stop what listens there"
"""
BROKEN = "- name: Broken\n  hosts: all\n  tasks:\n    - no_such_module:\n"
WAITS = """
- name: Wait
  hosts: control
  gather_facts: false
  tasks:
    - name: wait | For ever
      ansible.builtin.wait_for:
        path: /nonexistent/for/ever
        timeout: 60
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "inventories" / "lab").mkdir(parents=True)
    (tmp_path / "inventories" / "lab" / "hosts.yml").write_text(HOSTS, encoding="utf-8")
    (tmp_path / "ansible.cfg").write_text("[defaults]\n", encoding="utf-8")
    for name, text in (("speaks", SPEAKS), ("fails", FAILS), ("broken", BROKEN), ("waits", WAITS)):
        (tmp_path / "playbooks" / f"{name}.yml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def screen() -> Console:
    return Console(file=StringIO(), width=100)


def text_of(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def run(project: Path, playbook: str, console: Console, **options: Any) -> PlaybookResult:
    display = display_for(console, quiet=False)
    with display.shown():
        return run_playbook(playbook_of(project, playbook, **options), display)


def playbook_of(project: Path, name: str, **options: Any) -> Playbook:
    return Playbook(name, project / "inventories" / "lab", project, **options)


def test_a_playbook_that_ends_well_is_shown_as_lines_and_counted(project: Path, screen: Console) -> None:
    result = run(project, "speaks", screen)

    assert (result.status, result.exit_code, result.changed) == ("ok", 0, 1)
    assert result.lines[:2] == ("round 1 on nobody", "round 2 on nobody")
    assert sorted(result.lines[2:]) == ["control is done", "worker-1 is done"]
    assert [(host.host, host.changed, host.failed) for host in result.hosts] == [("control", 0, 0), ("worker-1", 1, 0)]
    assert "    round 1 on nobody\n" in text_of(screen)
    assert "✓ Tell the rounds" in text_of(screen)
    assert "TASK [" not in text_of(screen)


def test_ansibles_own_output_is_in_the_log_of_the_environment(project: Path, screen: Console) -> None:
    result = run(project, "speaks", screen)

    assert result.log is not None
    assert result.log.parent == project / ".state" / "lab" / "ansible"
    assert "TASK [train | Await the rounds]" in result.log.read_text(encoding="utf-8")
    assert "\x1b[" not in result.log.read_text(encoding="utf-8")
    assert result.log.stat().st_mode & 0o777 == 0o600


def test_variables_and_limit_reach_the_playbook(project: Path, screen: Console) -> None:
    result = run(project, "speaks", screen, variables={"secret": "two nodes"}, limit="worker-1")

    assert "round 1 on two nodes" in result.lines
    assert [host.host for host in result.hosts] == ["worker-1"]


def test_a_run_that_ended_well_can_leave_nothing_behind(project: Path, screen: Console) -> None:
    result = run(project, "speaks", screen, keep_logs=False)

    assert result.log is None
    assert not (project / ".state").exists()


def test_a_failure_shows_host_task_message_and_cure_and_has_the_exit_code(project: Path, screen: Console) -> None:
    result = run(project, "fails", screen)
    screen.print(result_screen(result))

    assert (result.status, result.exit_code) == ("failed", RunFailed.exit_code)
    [failure] = result.failures
    assert (failure.host, failure.play, failure.task) == ("worker-1", "Start the services", "service | Start redis")
    assert failure.message == "worker-1: redis: port 6479 is busy."
    assert failure.cure == "stop what listens there"
    shown = text_of(screen)
    assert "✗ Start the services" in shown
    for part in ("worker-1 failed", "service | Start redis", "port 6479 is busy.", "stop what listens there"):
        assert part in shown
    assert "Traceback" not in shown


def test_a_playbook_that_cannot_start_says_why(project: Path, screen: Console) -> None:
    result = run(project, "broken", screen)

    assert result.status == "failed"
    assert "no_such_module" in result.failures[0].message
    assert result.hosts == ()


def test_a_missing_playbook_is_refused(project: Path, screen: Console) -> None:
    with pytest.raises(RunFailed, match=r"nothing\.yml does not exist"):
        run(project, "nothing", screen)


def test_a_project_that_cannot_be_written_to_is_refused(project: Path, screen: Console) -> None:
    (project / ".state").write_text("in the way", encoding="utf-8")

    with pytest.raises(RunFailed) as caught:
        run(project, "speaks", screen)

    assert caught.value.cure


class InterruptingDisplay(PlainDisplay):
    """Presses Ctrl-C once the first task has begun."""

    pressed = False

    def show(self, step: Step, tally: Tally) -> None:
        super().show(step, tally)
        if tally.task and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_the_playbook_and_gives_the_signal_back(project: Path, screen: Console) -> None:
    before = signal.getsignal(signal.SIGINT)
    display = InterruptingDisplay(screen)

    result = run_playbook(playbook_of(project, "waits"), display)

    assert (result.status, result.exit_code) == ("interrupted", 130)
    assert result.failures == ()
    assert signal.getsignal(signal.SIGINT) is before


class KillingDisplay(PlainDisplay):
    """Kills Ansible once the first task has begun."""

    def show(self, step: Step, tally: Tally) -> None:
        super().show(step, tally)
        for process in psutil.Process().children(recursive=True) if tally.task else ():
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_playbook_that_somebody_kills_is_told_so(project: Path, screen: Console) -> None:
    with pytest.raises(RunFailed, match="somebody killed ansible-playbook while it ran waits"):
        run_playbook(playbook_of(project, "waits"), KillingDisplay(screen))


def test_a_program_sees_nothing_on_the_screen(project: Path, screen: Console) -> None:
    display = display_for(screen, quiet=True)

    with display.shown():
        result = run_playbook(playbook_of(project, "speaks"), display)

    assert result.status == "ok"
    assert text_of(screen) == ""


def test_a_terminal_sees_the_task_and_the_hosts_that_have_finished_it() -> None:
    screen = Console(file=StringIO(), width=100, force_terminal=True)
    display = display_for(screen, quiet=False)
    tally = Tally(play="Bridge", task="install | Bring the package", hosts={"worker-1": "ok"})

    with display.shown():
        display.show(HostDone("worker-1", "ok"), tally)
        display.tick()

    assert "install | Bring the package" in text_of(screen)
    assert "worker-1" in text_of(screen)


def test_a_full_disk_while_the_log_grows_does_not_hide_what_happens(screen: Console) -> None:
    full = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115  closed as the runner closes it
    taken = _Run(PlainDisplay(screen), full)

    taken.take({"event": "playbook_on_play_start", "stdout": "PLAY [Tell]", "event_data": {"name": "Tell"}})

    assert taken.tally.play == "Tell"
    with suppress(OSError):
        full.close()
