from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icosfl.aggregate import model
from icosfl.aggregate.progress import (
    Absent,
    Candidate,
    Event,
    Failed,
    Finished,
    Ready,
    Resumed,
    RoundDone,
    Started,
    Stopped,
    Waiting,
)
from icosfl.aggregate.report import OwnForecast, own_forecasts, report, write_report
from icosfl.aggregate.report_picture import MOST_HOSTS, shown_hosts
from icosfl.aggregate.report_story import Story, story
from icosfl.config import schema_of
from icosfl.errors import CheckpointError
from icosfl.schema import Rows
from icosfl.train.evaluation import load_evaluation
from icosfl.train.local import cut
from icosfl.train.node import Job
from icosfl.train.scores import older_half, summary
from icosfl.train.settings import TrainSettings
from support.made_up import QUESTION, RUN_CONFIG, START, node_config, rows

TIME = "2026-11-22T10:00:00+00:00"
PERIOD = 3 * 10**9
STARTED = Started(TIME, "77", 3, 1)
FORECAST = OwnForecast(
    host="controller",
    series="cpu_usage",
    unit="%",
    horizon_seconds=60.0,
    period_ns=PERIOD,
    times=START + np.arange(6) * PERIOD,
    truth=np.array([1.0, 2.0, np.nan, 4.0, 5.0, 9.0]),
    quantiles=np.array([[0.0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5], [np.nan] * 3, [9, 9, 9]]),
)


def ready(*hosts: str, left_out: tuple[Absent, ...] = ()) -> Ready:
    return Ready(TIME, tuple(Candidate(host, 100, TIME, 40) for host in hosts), left_out, None, "")


def round_done(number: int, *hosts: str, **changes: Any) -> RoundDone:
    skills = dict.fromkeys(hosts, 0.1 * number)
    made = RoundDone(TIME, number, 3, hosts, (), 1.0 / number, 40, 2.0, "d" * 64, {}, skills, 0.1 * number)
    return replace(made, seconds_by_node=dict.fromkeys(hosts, 1.5), learning_rate=0.01, **changes)


def finished(*hosts: str, **changes: Any) -> Finished:
    return replace(Finished(TIME, 2, hosts, (), "e" * 64, 12.0, round=2, skill=0.3), **changes)


def means(**rmse: float) -> dict[str, Any]:
    found = {name: {"nodes": 1, "mae": 1.0, "rmse": value, "smape": 1.0, "mase": None} for name, value in rmse.items()}
    place = {"series": "cpu_usage", "unit": "%", "horizon_steps": 20, "horizon_seconds": 60.0, "nodes": 1}
    return place | {"means": found, "coverage": None, "width": None}


class Reader(HTMLParser):
    """Collects what a page loads, its tags and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(directory: Path) -> Reader:
    return Reader((directory / "report.html").read_text(encoding="utf-8"))


def height_of(directory: Path) -> int:
    with Image.open(directory / "report.png") as image:
        return image.height


def test_the_page_tells_how_the_run_went_and_has_all_of_its_pictures_in_it(tmp_path: Path) -> None:
    late = Absent("beta", "no reply within 45 s")
    events = [
        STARTED,
        ready("alpha", "beta", left_out=(Absent("gamma", "12 rows are too few"),)),
        round_done(1, "alpha", "beta"),
        round_done(2, "alpha", left_out=(late,)),
        finished("alpha", "beta"),
    ]
    result = {"round": 2, "skills": {"alpha": 0.3}, "summary": [means(**{"global": 1.0, "persistence": 2.0})]}
    assert write_report(tmp_path, events, result, [FORECAST], {"seed": 7}) == tmp_path / "report.html"
    page = page_of(tmp_path)
    assert page.tags.count("img") == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    for text in ("Run 77: finished", "beta: no reply within 45 s", "12 rows are too few", "seed", "eeeeeeeeeeee"):
        assert text in page.text
    with Image.open(tmp_path / "report.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 100


def test_a_host_that_calls_itself_markup_or_a_formula_is_text(tmp_path: Path) -> None:
    host = "<script>alert('$\\frac{$')</script>\n"
    events = [STARTED, ready(host, left_out=(Absent("$_{", "<img src=x>"),)), round_done(1, host), finished(host)]
    write_report(tmp_path, events, {})
    page = page_of(tmp_path)
    assert "script" not in page.tags
    assert host.strip() in page.text
    assert page.tags.count("img") == 2


@pytest.mark.parametrize(
    ("events", "state", "pictures"),
    [
        ([], "not finished", 0),
        ([STARTED, Waiting(TIME, 0, 1, ())], "not finished", 0),
        ([STARTED, Failed(TIME, "nobody came", "start nodes")], "failed", 0),
        ([STARTED, ready("a"), round_done(1, "a", loss=1e30, skill=None, skills={})], "not finished", 2),
        ([STARTED, ready("a"), round_done(1, "a", skills={"a": -1e12}, skill=-1e12), finished("a")], "finished", 2),
    ],
    ids=["nothing", "waiting", "failed", "no number", "absurd number"],
)
def test_a_run_has_a_report_however_far_it_came(tmp_path: Path, events: list[Event], state: str, pictures: int) -> None:
    write_report(tmp_path, events, {})
    page = page_of(tmp_path)
    assert state in page.text
    assert page.tags.count("img") == pictures
    assert height_of(tmp_path) > 40


def test_fifty_nodes_and_many_rounds_are_drawn(tmp_path: Path) -> None:
    hosts = [f"node-{number}" for number in range(1, 51)]
    few, many = tmp_path / "few", tmp_path / "many"
    rounds = [round_done(number, *hosts, left_out=(Absent("node-3", "slow"),)) for number in range(1, 21)]
    write_report(many, [STARTED, ready(*hosts), *rounds, finished(*hosts)], {})
    write_report(few, [STARTED, ready("node-1"), round_done(1, "node-1"), finished("node-1")], {})
    assert height_of(many) > height_of(few) + 500
    assert page_of(many).text.count("node-3: slow") == 20


def test_of_too_many_nodes_the_worst_are_drawn() -> None:
    hosts = [f"node-{number}" for number in range(200)]
    skills = {host: number / 200 for number, host in enumerate(hosts)}
    told = story([STARTED, ready(*hosts), round_done(1, *hosts, skills=skills), finished(*hosts)], {})
    assert shown_hosts(told) == hosts[:MOST_HOSTS]


def test_baselines_without_an_error_of_persistence_are_drawn(tmp_path: Path) -> None:
    summary_of_none = [means(**{"global": 1.0, "persistence": 0.0}), means(**{"global": 9.0, "persistence": 1.0})]
    write_report(tmp_path, [STARTED, ready("a"), round_done(1, "a"), finished("a")], {"summary": summary_of_none})
    assert page_of(tmp_path).tags.count("img") == 3


def told_of(*events: Event, **result: Any) -> Story:
    return story([STARTED, ready("alpha"), *events], result)


def test_a_model_has_the_skill_that_the_next_round_or_the_end_tells() -> None:
    told = told_of(round_done(1, "alpha"), round_done(2, "alpha"), finished("alpha"), round=2, skills={"alpha": 0.3})
    assert [(each.round, each.skill) for each in told.models] == [(0, 0.1), (1, 0.2), (2, 0.3)]
    assert told.models[2].by_host == {"alpha": 0.3}
    assert told.best is told.models[2]


def test_the_skill_of_the_parent_that_stays_is_not_told_of_the_last_round_s_model() -> None:
    end = finished("alpha", round=0, skill=0.9, why="no round was better")
    told = told_of(round_done(1, "alpha"), round_done(2, "alpha"), end, round=0, skills={"alpha": 0.9})
    assert told.handed_out == 0
    assert (told.models[2].skill, told.models[2].by_host) == (None, {})


def test_a_kept_parent_and_an_early_end_are_told(tmp_path: Path) -> None:
    end = finished("alpha", round=0, why="no round was better than the model before")
    stopped = Stopped(TIME, 2, 3, "no improvement in 1 round")
    write_report(tmp_path, [STARTED, ready("alpha"), round_done(1, "alpha"), round_done(2, "alpha"), stopped, end], {})
    text = page_of(tmp_path).text
    assert "the model before" in text
    assert "no round was better than the model before" in text
    assert "Stopped after round 2 of 3: no improvement in 1 round" in text


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    failed = Failed(TIME, "the SuperLink went away", "")
    resumed = Resumed(TIME, "77", "78", 1)
    events = [STARTED, ready("alpha"), round_done(1, "alpha"), failed, resumed, round_done(2, "alpha")]
    going_on = story(events, {})
    assert going_on.state == "not finished"
    told = story([*events, finished("alpha")], {})
    assert (told.state, [each.round for each in told.rounds], told.resumed_after) == ("finished", [1, 2], (1,))
    write_report(tmp_path, [*events, finished("alpha")], {})
    assert "another ServerApp went on after round 1" in page_of(tmp_path).text


def test_hosts_are_in_the_order_of_their_numbers() -> None:
    told = told_of(round_done(1, "node-10", "node-9"))
    assert told.hosts == ("alpha", "node-9", "node-10")


def test_the_interval_holds_what_was_measured_and_forecast() -> None:
    assert FORECAST.held == pytest.approx(3 / 4)  # of rows 0, 1, 3 and 5 all but row 1
    assert replace(FORECAST, truth=np.full(6, np.nan)).held is None


@pytest.fixture(name="trained")
def _trained(tmp_path: Path) -> Any:
    node = node_config(tmp_path, "controller")
    job = Job(node, TrainSettings.from_run_config(RUN_CONFIG), QUESTION)
    begun = model.begun(job, "77", None)
    artifact = model.after_round(begun, 1, ["controller"], ["cpu_usage"], list(begun.arrays))
    return artifact, node


def test_own_forecasts_are_of_the_test_half_alone_and_of_series_that_the_controller_has(trained: Any) -> None:
    artifact, node = trained
    there = rows(400)
    scores = model.evaluate(artifact, node, there)
    assert "scores" in scores
    evaluation = load_evaluation(node.models_dir, artifact.digest)
    assert evaluation is not None
    found = own_forecasts(artifact, evaluation, node, there)
    assert [(each.series, each.horizon_seconds) for each in found] == [("cpu_usage", 3.0), ("cpu_usage", 15.0)]
    held_out = cut(there, schema_of(node.series), artifact.plan(node.max_gap_seconds), evaluation.cutoff_ns).held_out
    newest_chosen_by = held_out.last_times[older_half(held_out.last_times)].max()
    for each in found:
        ahead = round(each.horizon_seconds * 1e9)
        assert each.times.min() - ahead > newest_chosen_by
        measured = there.values[np.searchsorted(there.times, each.times), 0]
        np.testing.assert_allclose(each.truth, measured)
        assert (np.diff(each.quantiles, axis=1) >= 0).all()
        count = next(x for x in evaluation.scores.scores if x.horizon_seconds == each.horizon_seconds).count
        assert len(each.times) == count


def test_a_controller_without_rows_or_evaluation_has_no_forecasts(trained: Any) -> None:
    artifact, node = trained
    assert own_forecasts(artifact, None, node, rows(400)) == ()
    model.evaluate(artifact, node, rows(400))
    evaluation = load_evaluation(node.models_dir, artifact.digest)
    assert own_forecasts(artifact, evaluation, node, None) == ()
    few = Rows(rows(400).times[:301], rows(400).values[:301])
    assert own_forecasts(artifact, evaluation, node, few) == ()


def test_a_whole_report_has_the_forecasts_and_what_the_nodes_measured(tmp_path: Path, trained: Any) -> None:
    artifact, node = trained
    model.evaluate(artifact, node, rows(400))
    evaluation = load_evaluation(node.models_dir, artifact.digest)
    assert evaluation is not None
    result = {"summary": [each.to_dict() for each in summary({"controller": evaluation.scores})]}
    events = [STARTED, ready("controller"), round_done(1, "controller"), finished("controller")]
    assert report(tmp_path / "77", events, result, artifact, node, rows(400)) == ""
    page = page_of(tmp_path / "77")
    assert page.tags.count("img") == 4
    assert "Rows of the controller alone, controller" in page.text


def test_a_report_that_cannot_be_written_is_told_and_fails_nothing(
    tmp_path: Path, trained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    artifact, node = trained
    (tmp_path / "77").write_text("in the way", encoding="utf-8")
    reason = report(tmp_path / "77", [STARTED], {}, artifact, node, None)
    assert reason.startswith("CheckpointError: ")
    assert "the run has no report" in caplog.text
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "77"))):
        write_report(tmp_path / "77", [STARTED], {})


def test_a_serverapp_that_only_trains_loads_no_drawing_library() -> None:
    told = "import sys, icosfl.aggregate.report; print([m for m in ('matplotlib', 'PIL', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
