from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

from icosfl.errors import RunFailed
from icosfl.fleet import starter as starter_module
from icosfl.fleet.starter import MOST_FAILURES, Starter, adopt_orphans

# What stands for Flower's program: it notes what it sees, or does what its first argument says.
CLIENT_APP = """
    import json, os, pathlib, signal, sys, time

    def flwr_clientapp():
        what, file, *more = sys.argv[1:]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: sys.exit(0))  # as Flower's own does
        if what == "wait":
            pathlib.Path(file).write_text(str(os.getpid()))
            while not pathlib.Path(more[0]).exists():
                time.sleep(0.01)
        if what == "exit":
            sys.exit(int(more[0]))
        import icosfl
        seen = {"argv": sys.argv, "pid": os.getpid(), "warm": "first_stage" in sys.modules,
                "all": "second_stage" in sys.modules, "icosfl": icosfl.__file__,
                "open": sorted(os.listdir("/proc/self/fd"))}
        temporary = pathlib.Path(f"{file}.tmp")
        temporary.write_text(json.dumps(seen))
        temporary.rename(file)
        sys.exit(0)
"""

WARM = """
    import sys
    sys.path.insert(0, {directory!r})
    from icosfl.fleet import warm
    warm.STAGES = (("first_stage",), ("second_stage",))
    sys.path.insert(0, {app!r})
    sys.exit(warm.main())
"""

COLD = "import sys; sys.path.insert(0, {directory!r}); from flwr.supernode.cli import flwr_clientapp; flwr_clientapp()"


class Workshop:
    """A starter with a warm process that loads two small modules, and with ClientApps that note what they see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._write("flwr/__init__.py", "")
        self._write("flwr/supernode/__init__.py", "")
        self._write("flwr/supernode/cli.py", CLIENT_APP)
        self._write("app/icosfl.py", "")
        self.stage("first", "")
        self.stage("second", "")
        self._write("warm.py", WARM.format(directory=str(directory), app=str(directory / "app")))
        self.warm = (sys.executable, str(directory / "warm.py"))
        self.cold = (sys.executable, "-c", COLD.format(directory=str(directory)))

    def starter(self, idle_seconds: float = 60, **more: float) -> Starter:
        return Starter(idle_seconds, warm=self.warm, cold=self.cold, **more)

    def stage(self, name: str, code: str) -> None:
        self._write(f"{name}_stage.py", code)

    def block(self, name: str) -> Path:
        """Let a stage wait for ever once it has made the file that is returned."""
        file = self.directory / f"{name}-began"
        self.stage(name, f"import pathlib, time; pathlib.Path({str(file)!r}).touch(); time.sleep(60)")
        return file

    def _write(self, name: str, code: str) -> None:
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(code))


@pytest.fixture(autouse=True)
def _orphans_come_here() -> Iterator[None]:
    adopt_orphans()
    yield
    ctypes.CDLL(None).prctl(starter_module._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def starter(workshop: Workshop) -> Iterator[Starter]:
    one = workshop.starter()
    yield one
    one.close()


def until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def run(starter: Starter, file: Path) -> dict[str, Any]:
    """Start a ClientApp and return what it saw."""
    starter.prepare()
    starter.start(["note", str(file)])
    until(lambda: not starter.look(), "the ClientApp has not ended")
    seen: dict[str, Any] = json.loads(file.read_text())
    return seen


def warm_pid(starter: Starter) -> int:
    assert starter.warm_pid
    return starter.warm_pid


def kill(pid: int) -> None:
    """Kill a child of this process, and wait until it has let go of all that it held."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: psutil.Process(pid).status() == "zombie", "it lives")


def test_a_client_app_begins_in_a_process_that_has_loaded_what_it_needs(starter: Starter, tmp_path: Path) -> None:
    seen = run(starter, tmp_path / "seen")

    assert seen["warm"]
    assert seen["argv"] == ["flwr-clientapp", "note", str(tmp_path / "seen")]
    assert seen["pid"] not in {os.getpid(), starter.warm_pid}


def test_the_first_one_does_not_wait_for_the_last_stage_and_the_second_one_has_it(
    starter: Starter, tmp_path: Path
) -> None:
    assert not run(starter, tmp_path / "first")["all"]
    assert run(starter, tmp_path / "second")["all"]


def test_it_imports_the_project_of_the_app_that_was_sent_not_the_installed_one(
    starter: Starter, tmp_path: Path
) -> None:
    assert run(starter, tmp_path / "seen")["icosfl"] == str(tmp_path / "app" / "icosfl.py")


def test_it_holds_neither_the_socket_of_the_warm_process_nor_any_other_of_its_files(
    starter: Starter, tmp_path: Path
) -> None:
    run(starter, tmp_path / "warmed up")

    assert len(run(starter, tmp_path / "seen")["open"]) <= 4  # three standard ones, and the directory that it reads


def test_one_warm_process_serves_all(starter: Starter, tmp_path: Path) -> None:
    run(starter, tmp_path / "first")
    pid = warm_pid(starter)
    run(starter, tmp_path / "second")

    assert warm_pid(starter) == pid


def test_no_client_app_stays_as_a_zombie(starter: Starter, tmp_path: Path) -> None:
    pid = run(starter, tmp_path / "seen")["pid"]

    assert not psutil.pid_exists(pid)
    assert [child.pid for child in psutil.Process().children() if child.status() == "zombie"] == []


def test_a_client_app_outlives_the_warm_process_and_its_end_is_noticed(starter: Starter, tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    starter.prepare()
    starter.start(["wait", str(begun), str(go_on)])
    until(begun.exists, "the ClientApp has not begun")
    os.kill(warm_pid(starter), signal.SIGKILL)

    assert starter.look()
    go_on.touch()
    until(lambda: not starter.look(), "the ClientApp has not ended")
    assert json.loads(begun.read_text())["warm"]


def test_a_warm_process_that_was_killed_between_two_messages_is_replaced_before_the_next(
    starter: Starter, tmp_path: Path
) -> None:
    run(starter, tmp_path / "first")
    killed = warm_pid(starter)
    kill(killed)

    assert run(starter, tmp_path / "second")["warm"]
    assert warm_pid(starter) != killed


def test_when_the_warm_process_is_killed_while_it_loads_the_client_app_starts_cold(
    workshop: Workshop, tmp_path: Path
) -> None:
    loading = workshop.block("first")
    starter = workshop.starter()

    def kill_it() -> None:
        until(loading.exists, "it does not load")
        (child,) = psutil.Process().children()
        child.kill()

    killer = threading.Thread(target=kill_it)
    killer.start()
    seen = run(starter, tmp_path / "seen")
    killer.join()

    assert not seen["warm"]
    assert starter.warm_pid is None


def test_a_warm_process_that_is_killed_between_being_ready_and_the_request_costs_one_cold_start(
    starter: Starter, tmp_path: Path
) -> None:
    starter.prepare()
    kill(warm_pid(starter))
    starter.start(["note", str(tmp_path / "seen")])
    until(lambda: not starter.look(), "the ClientApp has not ended")

    assert not json.loads((tmp_path / "seen").read_text())["warm"]
    assert run(starter, tmp_path / "next")["warm"]


def test_one_that_hangs_is_given_up_and_the_client_app_starts_once(workshop: Workshop, tmp_path: Path) -> None:
    starter = workshop.starter(answer_seconds=0.3)
    starter.prepare()
    hung = warm_pid(starter)
    os.kill(hung, signal.SIGSTOP)
    starter.start(["note", str(tmp_path / "seen")])
    until(lambda: not starter.look(), "the ClientApp has not ended")

    assert not json.loads((tmp_path / "seen").read_text())["warm"]
    assert not psutil.pid_exists(hung)


def test_one_that_does_not_load_in_time_is_given_up(workshop: Workshop, tmp_path: Path) -> None:
    workshop.block("first")
    starter = workshop.starter(load_seconds=0.3)

    assert not run(starter, tmp_path / "seen")["warm"]
    assert psutil.Process().children() == []


def test_after_several_failures_in_a_row_it_is_not_tried_again(
    workshop: Workshop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = tmp_path / "attempts"
    workshop.stage("first", f"open({str(attempts)!r}, 'a').write('.'); raise ImportError('broken')")
    starter = workshop.starter()
    for number in range(MOST_FAILURES + 2):
        assert not run(starter, tmp_path / str(number))["warm"]

    assert len(attempts.read_text()) == MOST_FAILURES
    assert "until the service restarts" in caplog.text


def test_one_that_was_of_use_in_between_may_fail_again(starter: Starter, tmp_path: Path) -> None:
    for number in range(MOST_FAILURES + 2):
        assert run(starter, tmp_path / str(number))["warm"]
        kill(warm_pid(starter))


def test_an_idle_one_ends_by_itself_and_that_is_no_failure(workshop: Workshop, tmp_path: Path) -> None:
    starter = workshop.starter(idle_seconds=0.2)
    for number in range(MOST_FAILURES + 2):
        assert run(starter, tmp_path / str(number))["warm"]
        until(lambda: not starter.look() and starter.warm_pid is None, "it stays")


def test_nothing_stays_of_one_that_has_ended_even_if_no_message_comes(workshop: Workshop) -> None:
    starter = workshop.starter(idle_seconds=0.2)
    starter.prepare()
    idle = psutil.Process(warm_pid(starter))
    until(lambda: idle.status() == "zombie", "it stays")

    assert not starter.look()
    assert not psutil.pid_exists(idle.pid)
    assert starter.warm_pid is None


def test_without_idle_time_there_is_none(workshop: Workshop, tmp_path: Path) -> None:
    starter = workshop.starter(idle_seconds=0)

    assert not run(starter, tmp_path / "seen")["warm"]
    assert starter.warm_pid is None


def test_one_in_which_a_thread_runs_is_not_forked(workshop: Workshop, tmp_path: Path) -> None:
    workshop.stage("first", "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")

    assert not run(workshop.starter(), tmp_path / "seen")["warm"]


def test_a_client_app_that_is_still_there_when_the_next_one_has_ended_is_overtaken(
    starter: Starter, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    starter.prepare()
    starter.start(["wait", str(begun), str(go_on)])
    until(begun.exists, "the ClientApp has not begun")
    assert starter.look()
    assert not starter.overtaken

    run(starter, tmp_path / "next")
    assert not starter.look()
    assert starter.overtaken
    go_on.touch()
    until(lambda: starter.look() or not starter.overtaken, "the ClientApp has not ended")


@pytest.mark.parametrize("warm", [True, False])
def test_a_client_app_that_is_killed_is_told_of(workshop: Workshop, tmp_path: Path, warm: bool) -> None:
    starter = workshop.starter(60 if warm else 0)
    assert starter.prepare() == warm
    pid = starter.start(["wait", str(tmp_path / "begun"), str(tmp_path / "never")])
    until((tmp_path / "begun").exists, "the ClientApp has not begun")
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(RunFailed, match=f"ClientApp {pid} ended with signal 9"):
        until(lambda: not starter.look(), "its end is not noticed")
    assert not starter.look()
    starter.close()


@pytest.mark.parametrize("warm", [True, False])
def test_so_is_one_that_breaks_off(workshop: Workshop, tmp_path: Path, warm: bool) -> None:
    starter = workshop.starter(60 if warm else 0)
    starter.prepare()
    starter.start(["exit", str(tmp_path / "unused"), "3"])

    with pytest.raises(RunFailed, match="exit code 3"):
        until(lambda: not starter.look(), "its end is not noticed")
    starter.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize("warm", [True, False])
def test_a_signal_that_flower_takes_for_a_good_end_ends_no_client_app(
    workshop: Workshop, tmp_path: Path, warm: bool, number: signal.Signals
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    starter = workshop.starter(60 if warm else 0)
    assert starter.prepare() == warm
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    pid = starter.start(["wait", str(begun), str(go_on)])
    until(begun.exists, "the ClientApp has not begun")
    os.kill(pid, number)
    go_on.touch()
    until(lambda: not starter.look(), "the ClientApp has not ended")

    assert json.loads(begun.read_text())["pid"] == pid  # it has done its work
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before  # and the executor itself still hears
    starter.close()


@pytest.mark.parametrize("warm", [True, False])
def test_no_client_app_outlives_an_executor_that_ends_in_peace(workshop: Workshop, tmp_path: Path, warm: bool) -> None:
    starter = workshop.starter(60 if warm else 0)
    assert starter.prepare() == warm
    pid = starter.start(["wait", str(tmp_path / "begun"), str(tmp_path / "never")])
    until((tmp_path / "begun").exists, "the ClientApp has not begun")

    starter.close()

    with pytest.raises(RunFailed, match=f"ClientApp {pid} ended with signal 9"):
        until(lambda: not starter.look(), "it is still at work")


@pytest.mark.parametrize("warm", [True, False])
def test_flowers_own_client_app_ends_with_its_executor_all_the_same(tmp_path: Path, warm: bool) -> None:
    code = f"""
        import os, time
        from pathlib import Path
        from icosfl.fleet.starter import Starter
        starter = Starter({60 if warm else 0})
        starter.prepare()
        # nobody listens there: it asks again and again
        arguments = ["--clientappio-api-address", "127.0.0.1:9", "--token", "none", "--insecure"]
        print(starter.start([*arguments, "--parent-pid", str(os.getpid())]), flush=True)
        time.sleep(60)
    """
    executor = subprocess.Popen([sys.executable, "-c", dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert executor.stdout
    app = psutil.Process(int(executor.stdout.readline()))
    until(lambda: has_handler(app.pid, signal.SIGTERM), "Flower has not begun")
    app.terminate()
    with pytest.raises(psutil.TimeoutExpired):
        app.wait(1)
    executor.kill()
    executor.wait()  # only now is it gone for Flower, too
    executor.stdout.close()

    assert app.wait(10) in {0, None}


def has_handler(pid: int, number: signal.Signals) -> bool:
    """Whether a process has set a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("stage", ["ready", "loading"])
def test_the_warm_process_ends_when_its_executor_is_killed(workshop: Workshop, tmp_path: Path, stage: str) -> None:
    begun = tmp_path / "first-began"
    if stage == "loading":
        workshop.stage("first", f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(1)")
    code = f"""
        import sys, time
        from pathlib import Path
        from icosfl.fleet.starter import WarmProcess
        one = WarmProcess({workshop.warm!r}, 60)
        Path({str(tmp_path / "pid")!r}).write_text(str(one.pid))
        {"one.wait_until_ready(20)" if stage == "ready" else ""}
        print("here", flush=True)
        time.sleep(60)
    """
    executor = subprocess.Popen([sys.executable, "-c", dedent(code)], stdout=subprocess.PIPE)
    assert executor.stdout
    assert executor.stdout.readline() == b"here\n"
    if stage == "loading":
        until(begun.exists, "it does not load")
    warm = psutil.Process(int((tmp_path / "pid").read_text()))
    executor.kill()
    executor.communicate()

    assert warm.wait(20) == 0


def test_what_client_apps_load_starts_no_thread_and_can_be_forked() -> None:
    starter = Starter(60, cold=("false",))
    for _ in ("after the first stage", "after the last"):
        assert starter.prepare()
        starter.start(["--help"])
        until(lambda: not starter.look(), "the ClientApp has not ended")

    assert psutil.Process(warm_pid(starter)).num_threads() == 1
    starter.close()
