from __future__ import annotations

from typing import Any

import pytest

from icosfl.fleet.events import (
    HIDDEN,
    Failure,
    HostDone,
    HostRecap,
    ItemDone,
    PlayStarted,
    Recapped,
    Tally,
    TaskStarted,
    explain,
    interpret,
)


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {"event": kind, "event_data": data}


def failed(host: str, message: str) -> dict[str, Any]:
    return event("runner_on_failed", host=host, play="Store", task="service | Start", res={"msg": message})


def test_a_play_and_a_task_are_told_by_name() -> None:
    assert interpret(event("playbook_on_play_start", name="Store")) == PlayStarted("Store")
    assert interpret(event("playbook_on_task_start", task="service | Start")) == TaskStarted("service | Start")


def test_a_handler_counts_as_a_task() -> None:
    assert interpret(event("playbook_on_handler_task_start", task="Restart redis")) == TaskStarted("Restart redis")


@pytest.mark.parametrize(
    ("kind", "result", "outcome"),
    [
        ("runner_on_ok", {"changed": False}, "ok"),
        ("runner_on_ok", {"changed": True}, "changed"),
        ("runner_on_skipped", {}, "skipped"),
    ],
)
def test_a_host_that_finished_a_task_has_an_outcome(kind: str, result: dict[str, Any], outcome: str) -> None:
    assert interpret(event(kind, host="worker-1", res=result)) == HostDone("worker-1", outcome)  # type: ignore[arg-type]


def test_an_event_that_tells_a_person_nothing_is_no_step() -> None:
    assert interpret(event("runner_on_start", host="worker-1")) is None


def test_a_loop_item_speaks_through_the_line_of_its_json_output() -> None:
    output = '{"round": 1, "line": "round 1: 2 nodes, RMSE 3.1"}\nnoise\n{"broken": '

    step = interpret(event("runner_item_on_ok", host="control", res={"stdout": output}))

    assert step == ItemDone("control", ("round 1: 2 nodes, RMSE 3.1",))


def test_a_looped_task_does_not_repeat_what_its_items_said() -> None:
    item = {"stdout": '{"line": "round 1"}'}

    step = interpret(event("runner_on_ok", host="control", res={"results": [item], "changed": False}))

    assert step == HostDone("control", "ok")


def test_debug_and_modules_with_a_line_speak() -> None:
    said = interpret(event("runner_on_ok", host="a", task_action="ansible.builtin.debug", res={"msg": ["one", "two"]}))
    probed = interpret(event("runner_on_ok", host="a", task_action="probe", res={"line": "redis answers", "msg": "x"}))

    assert said == HostDone("a", "ok", ("one", "two"))
    assert probed == HostDone("a", "ok", ("redis answers",))


def test_a_task_that_handles_secrets_stays_silent() -> None:
    result = {"line": "password=x", "_ansible_no_log": True, "changed": False}

    assert interpret(event("runner_on_ok", host="a", res=result)) == HostDone("a", "ok")
    assert explain({"msg": "password=x", "_ansible_no_log": True}) == (HIDDEN, "")
    assert explain({"censored": "the output has been hidden"}) == (HIDDEN, "")


def test_a_failure_names_host_play_task_message_and_cure() -> None:
    step = interpret(failed("worker-1", "port 6479 is busy (stop what listens there)"))

    assert step == HostDone(
        "worker-1",
        "failed",
        failure=Failure("worker-1", "Store", "service | Start", "port 6479 is busy", "stop what listens there"),
    )


@pytest.mark.parametrize(
    ("result", "message", "cure"),
    [
        ({"msg": "no answer", "cure": "see the log"}, "no answer", "see the log"),
        ({"msg": "a: icosfl_slot: taken. Cure: use slot 3"}, "a: icosfl_slot: taken.", "use slot 3"),
        ({"msg": "Permission denied (publickey)"}, "Permission denied (publickey)", ""),
        ({"msg": ""}, "the task gave no reason", ""),
        ({"results": [{"msg": "fine"}, {"failed": True, "msg": "bad (use another one)"}]}, "bad", "use another one"),
    ],
)
def test_a_message_and_its_cure_are_told_apart(result: dict[str, Any], message: str, cure: str) -> None:
    assert explain(result) == (message, cure)


def test_several_problems_keep_each_its_own_cure() -> None:
    text = "a: x. Cure: one\nb: y. Cure: two"

    message, cure = explain({"msg": text})

    assert message == text
    assert cure == "correct all of these; each line says how"


def test_a_failed_command_shows_itself_and_the_end_of_what_it_said() -> None:
    result = {
        "msg": "non-zero return code",
        "rc": 2,
        "cmd": ["uv", "pip", "a b"],
        "stderr": "1\n2\n3\n4\n5\n6",
        "stdout": "-",
    }

    message, _ = explain(result)

    assert message == "non-zero return code\ncommand: uv pip 'a b'\n2\n3\n4\n5\n6"


def test_wrong_role_arguments_are_listed() -> None:
    message, _ = explain({"msg": "Validation of arguments failed", "argument_errors": ["missing: redis_root"]})

    assert message == "Validation of arguments failed\nmissing: redis_root"


def test_the_recap_counts_each_host() -> None:
    step = interpret(
        event("playbook_on_stats", processed={"a": 1, "b": 1}, ok={"a": 5}, changed={"a": 2}, failures={"b": 1})
    )

    assert step == Recapped((HostRecap("a", 5, 2, 0, 0, 0), HostRecap("b", 0, 0, 0, 1, 0)))


def tally_of(*events: dict[str, Any]) -> Tally:
    tally = Tally()
    for each in events:
        step = interpret(each)
        if step is not None:
            tally.add(step)
    return tally


def test_counts_begin_anew_with_a_play_and_hosts_with_a_task() -> None:
    tally = tally_of(
        event("playbook_on_play_start", name="one"),
        event("playbook_on_task_start", task="t"),
        event("runner_on_ok", host="a", res={}),
        event("playbook_on_play_start", name="two"),
        event("playbook_on_task_start", task="t1"),
        event("runner_on_ok", host="a", res={"changed": True}),
        event("playbook_on_task_start", task="t2"),
        event("runner_on_ok", host="b", res={}),
    )

    assert (tally.play, tally.task) == ("two", "t2")
    assert tally.counts == {"changed": 1, "ok": 1}
    assert tally.hosts == {"b": "ok"}


def test_a_rescued_failure_is_forgotten_and_a_real_one_kept() -> None:
    tally = tally_of(
        failed("a", "rescued later"),
        failed("b", "broken"),
        event("playbook_on_stats", processed={"a": 1, "b": 1}, ok={"a": 1}, failures={"b": 1}),
    )

    assert [failure.host for failure in tally.failures] == ["b"]


def test_an_ignored_failure_is_no_failure() -> None:
    tally = tally_of(event("runner_on_failed", host="a", ignore_errors=True, res={"msg": "may happen"}))

    assert tally.failures == []
    assert tally.counts == {"ok": 1}


def test_each_proven_hop_is_a_line_of_its_host() -> None:
    answers = ["redis: 127.0.0.1:64 answers", "bridge: 127.0.0.1:65 answers"]

    step = interpret(event("runner_on_ok", host="a", task="Ask", task_action="hop", res={"answers": answers}))

    assert step == HostDone("a", "ok", tuple(f"a: {answer}" for answer in answers))


def test_what_a_host_reports_of_itself_is_kept() -> None:
    step = interpret(event("runner_on_ok", host="a", task_action="node_report", res={"report": {"status": None}}))

    assert step == HostDone("a", "ok", report={"status": None})


def test_a_host_that_refuses_our_key_is_told_in_our_words_with_the_cure() -> None:
    said = "Failed to connect to the host via ssh: deploy@10.0.0.1: Permission denied (publickey)."

    step = interpret(event("runner_on_unreachable", host="a", task="Ask", res={"msg": said, "unreachable": True}))

    assert isinstance(step, HostDone)
    assert step.failure is not None
    assert step.failure.kind == "no access"
    assert "refuses our SSH key" in step.failure.message
    assert "authorized_keys" in step.failure.cure


def test_a_cure_that_stands_in_the_message_too_is_told_once() -> None:
    assert explain({"msg": "no answer (start it (now))", "cure": "start it (now)"}) == ("no answer", "start it (now)")


def test_a_program_of_ours_that_failed_says_so_itself() -> None:
    output = '{"error": "1 of 2 SuperNodes are online", "cure": "icosfl status", "line": "x"}'

    found = explain({"msg": "non-zero return code", "rc": 11, "cmd": ["python"], "stdout": output, "stderr": "noise"})

    assert found == ("1 of 2 SuperNodes are online", "icosfl status")


def test_several_lines_of_one_answer_are_lines_for_a_person() -> None:
    step = interpret(
        event("runner_on_ok", host="control", task_action="federated_run", res={"line": "resumed\nround 2"})
    )

    assert isinstance(step, HostDone)
    assert step.lines == ("resumed", "round 2")


def test_what_came_of_a_run_is_kept_for_programs() -> None:
    tally, report = Tally(), {"run": "7", "digest": "d"}
    for result in ({"line": "round 1"}, {"line": "finished", "report": report}):
        tally.add(interpret(event("runner_on_ok", host="control", task_action="federated_run", res=result)))  # type: ignore[arg-type]

    assert tally.reports == {"control": report}
