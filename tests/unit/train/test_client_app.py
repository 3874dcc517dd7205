from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import Context, Message, RecordDict

from icosfl.config import NODE_CONFIG_VARIABLE, NodeConfig, SeriesConfig
from icosfl.errors import NotReady, SchemaMismatch, StoreUnavailable
from icosfl.process.windows import Windows, make_windows
from icosfl.schema import Rows
from icosfl.store.memory import MemoryStore
from icosfl.train import client_app, local, node
from icosfl.train.artifact import Artifact, from_bytes, load_latest, load_served, point_best, save, to_bytes
from icosfl.train.evaluation import load_evaluation
from icosfl.train.linear import fit_blend, fit_common
from icosfl.train.local import prepare
from icosfl.train.loop import predict
from icosfl.train.messages import Check, Checked, Handout, Question, Received, Refused, Standing, Task, Update
from icosfl.train.model import build, load_arrays, to_arrays
from icosfl.train.records import array_record, pack, pack_arrays, pack_model, unpack, unpack_reply, unpack_update
from icosfl.train.settings import TrainSettings
from support import made_up

HALF = {"part": 1, "parts": 2}
SERIES_CURE = "correct icosfl_series in group_vars, or what names series of it"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeConfig:
    """A node whose configuration file is where the environment says, and whose store holds 200 rows."""
    own = made_up.node_config(tmp_path, "worker-1")
    write(own, monkeypatch)
    fill(monkeypatch, made_up.rows(200))
    return own


def write(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    data = asdict(config) | {"models_dir": str(config.models_dir), "runs_dir": str(config.runs_dir)}
    path = config.models_dir.parent.with_suffix(".toml")
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    monkeypatch.setenv(NODE_CONFIG_VARIABLE, str(path))


def fill(monkeypatch: pytest.MonkeyPatch, rows: Rows) -> None:
    def open_filled(_: Any, schema: Any, *, read_only: bool) -> MemoryStore:
        assert read_only
        store = MemoryStore(schema, 1000)
        store.append(rows)
        return store

    monkeypatch.setattr(client_app, "open_store", open_filled)


def ask(kind: str, content: RecordDict, node_config: Any = None, **changes: Any) -> RecordDict:
    """What the ClientApp replies to a message of this kind."""
    message = Message(content, 7, kind)
    message.metadata.__dict__["_message_id"] = "1"
    run_config = made_up.RUN_CONFIG | {key.replace("_", "-"): value for key, value in changes.items()}
    context = Context(1, 7, node_config or {}, RecordDict(), run_config)
    return client_app.app(message, context).content


def task(
    arrays_of: NodeConfig,
    number: int = 1,
    *,
    cutoff: int = 149,
    until: int = 199,
    rate: float = 0.01,
    mu: float = 0.0,
    **changes: Any,
) -> RecordDict:
    job = node.Job(arrays_of, TrainSettings.from_run_config(made_up.RUN_CONFIG | changes), made_up.QUESTION)
    times = made_up.rows(200).times
    value = Task(f"run/{number}", number, made_up.QUESTION, int(times[cutoff]), int(times[until]), rate, mu)
    return pack_arrays(value, array_record(to_arrays(build(job.shape, 1))))


def with_first_array(content: RecordDict, array: np.ndarray) -> RecordDict:
    arrays = content.array_records["arrays"].to_numpy_ndarrays()
    return pack_arrays(unpack(content, Task), array_record([array, *arrays[1:]]))


def test_a_query_needs_neither_torch_nor_dataclays_library() -> None:
    code = "import sys, icosfl.train.client_app; print([m for m in ('torch', 'dataclay') if m in sys.modules])"

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "[]"


@pytest.mark.usefixtures("config")
def test_a_node_with_enough_rows_says_what_it_brings() -> None:
    standing = unpack_reply(ask("query", pack(made_up.QUESTION)), Standing)

    assert isinstance(standing, Standing)
    assert (standing.host, standing.rows, standing.reason) == ("worker-1", 200, "")
    assert standing.newest == made_up.rows(200).times[-1]
    assert standing.cutoff_ns == made_up.rows(200).times[149]
    assert standing.train_windows == 150 - 5 - 5 + 1
    assert standing.series == ("cpu_usage",)


@pytest.mark.usefixtures("config")
def test_a_node_with_too_few_rows_says_how_many_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch, made_up.rows(20))

    standing = unpack_reply(ask("query", pack(made_up.QUESTION)), Standing)

    assert isinstance(standing, Standing)
    assert "there are 20 rows" in standing.reason


def test_a_host_whose_rows_ended_long_ago_is_not_ready_and_says_how_old_they_are(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(replace(config, stale_after_seconds=30.0), monkeypatch)
    newest = int(made_up.rows(200).times[-1])
    monkeypatch.setattr(client_app.time, "time_ns", lambda: newest + 90 * 10**9)

    whole, older = (unpack_reply(ask("query", pack(made_up.QUESTION), part), Standing) for part in (None, HALF))

    assert isinstance(whole, Standing)
    assert isinstance(older, Standing)
    assert whole.reason == (
        "its newest row is 90 s old, more than 30 s: see whether host_metrics and otlp_bridge run there"
    )
    assert older.reason.startswith("its newest row is 90 s old")


def test_a_host_whose_newest_row_is_of_the_future_is_not_ready_and_names_the_clock(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(replace(config, stale_after_seconds=30.0), monkeypatch)
    newest = int(made_up.rows(200).times[-1])

    def reason(ahead: int) -> str:
        monkeypatch.setattr(client_app.time, "time_ns", lambda: newest - ahead * 10**9)
        standing = unpack_reply(ask("query", pack(made_up.QUESTION)), Standing)
        assert isinstance(standing, Standing)
        return standing.reason

    assert reason(30) == ""
    assert reason(90) == ("its newest row is 90 s in the future: set the clock of worker-1, or of what sent the rows")


def test_the_older_part_of_a_host_is_ready_when_the_host_s_newest_rows_are_fresh(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(replace(config, stale_after_seconds=30.0), monkeypatch)
    newest = int(made_up.rows(200).times[-1])
    monkeypatch.setattr(client_app.time, "time_ns", lambda: newest + 5 * 10**9)

    standing = unpack_reply(ask("query", pack(made_up.QUESTION), HALF), Standing)

    assert isinstance(standing, Standing)
    assert (standing.newest, standing.reason) == (made_up.rows(200).times[99], "")


@pytest.mark.usefixtures("config")
def test_a_node_without_rows_answers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch, Rows.empty(2))

    standing = unpack_reply(ask("query", pack(made_up.QUESTION)), Standing)

    assert isinstance(standing, Standing)
    assert (standing.rows, standing.newest, standing.reason) == (0, None, "there is no row yet")


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (replace(made_up.QUESTION, period_seconds=5.0), "worker-1 samples every 3 s, the controller every 5 s"),
        (
            Question(series=(SeriesConfig(name="power", unit="kW"),), period_seconds=made_up.PERIOD),
            "worker-1 keeps power in 'W', the controller in 'kW'",
        ),
        (
            Question(series=(SeriesConfig(name="gpu", unit="%"),), period_seconds=made_up.PERIOD),
            "no series is called 'gpu'; there are cpu_usage, power",
        ),
    ],
)
def test_a_node_that_measures_otherwise_refuses_and_says_what(question: Question, reason: str) -> None:
    assert unpack_reply(ask("query", pack(question)), Standing) == Refused(
        "worker-1", reason, SERIES_CURE if "gpu" in reason else "deploy the whole fleet from one inventory: site.yml"
    )


@pytest.mark.usefixtures("config")
def test_a_node_whose_store_does_not_answer_refuses_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the store does not answer", cure="start it")

    monkeypatch.setattr(client_app, "open_store", down)

    for kind, content in [("query", pack(made_up.QUESTION)), ("train", task(made_up.node_config(Path(), "x")))]:
        assert unpack_reply(ask(kind, content), Standing) == Refused(
            "worker-1", "the store does not answer", "start it"
        )


@pytest.mark.usefixtures("config")
def test_a_supernode_that_shares_its_host_brings_its_own_rows_under_its_own_name() -> None:
    first, second = (
        unpack_reply(ask("query", pack(made_up.QUESTION), {"part": part, "parts": 2}), Standing) for part in (1, 2)
    )

    assert isinstance(first, Standing)
    assert isinstance(second, Standing)
    assert [(each.host, each.rows) for each in (first, second)] == [("worker-1/1", 100), ("worker-1/2", 100)]
    assert first.newest == made_up.rows(200).times[99]
    assert second.newest == made_up.rows(200).times[199]


@pytest.mark.usefixtures("config")
def test_a_part_that_cannot_be_is_refused_by_the_hosts_name() -> None:
    refused = unpack_reply(ask("query", pack(made_up.QUESTION), {"part": 3, "parts": 2}), Standing)

    assert isinstance(refused, Refused)
    assert refused.host == "worker-1"
    assert "part 3 of 2" in refused.reason


def test_a_node_without_a_configuration_refuses_namelessly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NODE_CONFIG_VARIABLE, raising=False)

    refused = unpack_reply(ask("query", pack(made_up.QUESTION)), Standing)

    assert isinstance(refused, Refused)
    assert refused.host == ""
    assert NODE_CONFIG_VARIABLE in refused.reason


@pytest.mark.usefixtures("config")
def test_a_wrong_run_configuration_is_refused_by_its_key() -> None:
    refused = unpack_reply(ask("query", pack(made_up.QUESTION), window="1 parsec"), Standing)

    assert isinstance(refused, Refused)
    assert refused.reason.startswith("window: ")


def test_training_returns_changed_arrays_of_the_same_version(config: NodeConfig) -> None:
    content = task(config)

    update = unpack_update(ask("train", content))

    assert isinstance(update, Update)
    assert (update.trained.host, update.trained.version) == ("worker-1", "run/1")
    assert update.examples > 100
    before = content.array_records["arrays"].to_numpy_ndarrays()
    assert all((array != old).any() for array, old in zip(update.arrays, before, strict=True))
    assert all(np.isfinite(array).all() for array in update.arrays)


def test_training_returns_the_common_part_of_the_series_that_the_node_has(config: NodeConfig) -> None:
    content = task(config)
    before = content.array_records["arrays"].to_numpy_ndarrays()[0]
    before[:] = 0.25  # of an earlier run

    update = unpack_update(ask("train", with_first_array(content, before)))

    assert isinstance(update, Update)
    cpu, power = update.arrays[0]
    job = node.Job(config, TrainSettings.from_run_config(made_up.RUN_CONFIG), made_up.QUESTION)
    rows = made_up.rows(200)
    train = prepare(rows, job.schema, job.plan, job.settings, int(rows.times[149]), int(rows.times[149])).train
    np.testing.assert_allclose(cpu, fit_common(train).weights[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(power, before[1])


@pytest.mark.parametrize("network", ["lstm", "gru"])
def test_a_node_trains_the_network_that_the_run_asks_for(config: NodeConfig, network: str) -> None:
    update = unpack_update(ask("train", task(config, network=network), network=network))

    assert isinstance(update, Update)
    assert update.arrays[1].shape == ({"lstm": 16, "gru": 12}[network], 2)


def test_a_node_where_nothing_ever_moves_refuses_to_train_and_says_so(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = made_up.rows(200)
    still.values[:, 0] = 0.05
    fill(monkeypatch, still)

    refused = unpack_update(ask("train", task(config)))

    assert isinstance(refused, Refused)
    assert (refused.host, refused.reason) == (
        "worker-1", "no window has a target to learn from: every series is constant, or absent"
    )  # fmt: skip


def test_training_looks_at_no_row_after_the_cutoff(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = unpack_update(ask("train", task(config)))
    changed = made_up.rows(200)
    changed.values[150:, 0] = 0.0
    fill(monkeypatch, changed)

    second = unpack_update(ask("train", task(config)))

    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert all((one == two).all() for one, two in zip(first.arrays, second.arrays, strict=True))


def test_training_makes_no_window_of_rows_after_those_that_it_is_measured_on(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def watched(*given: Any) -> Windows:
        windows = make_windows(*given)
        made.append(int(windows.last_times.max()))
        return windows

    monkeypatch.setattr(local, "make_windows", watched)

    update = unpack_update(ask("train", task(config, until=179)))

    assert isinstance(update, Update)
    assert made == [made_up.rows(200).times[149 - 5], made_up.rows(200).times[179 - 5]]


def test_a_node_measures_the_arrays_as_they_came_before_it_trains_them(config: NodeConfig) -> None:
    content = task(config, until=189)

    update = unpack_update(ask("train", content))

    assert isinstance(update, Update)
    rows = Rows(made_up.rows(200).times[:190], made_up.rows(200).values[:190])
    job = node.Job(config, TrainSettings.from_run_config(made_up.RUN_CONFIG), made_up.QUESTION)
    prepared = local.cut(rows, job.schema, job.plan, int(rows.times[149]))
    model = build(job.shape, 1)
    load_arrays(model, content.array_records["arrays"].to_numpy_ndarrays())
    older = prepared.held_out.pick(np.arange(36) < 18)  # from 145 to 189 - 5, and the older half of them
    forecasts = predict(model, fit_blend(prepared.train), older.inputs, older.last_times)[:, :, 0, 1]
    for row, level in enumerate(update.trained.validation):
        assert (level.series, level.horizon_steps, level.count) == ("cpu_usage", (1, 5)[row], 18)
        targets = older.targets[:, row, 0]
        assert level.rmse == pytest.approx(np.sqrt(((targets - forecasts[:, row]) ** 2).mean()))
        assert level.persistence == pytest.approx(np.sqrt(((targets - older.inputs[:, -1, 0]) ** 2).mean()))
    assert len(update.trained.validation) == 2


def test_rows_that_came_since_the_run_began_change_no_round_s_measure(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = unpack_update(ask("train", task(config)))
    fill(monkeypatch, made_up.rows(260))

    second = unpack_update(ask("train", task(config)))

    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert first.trained.validation
    assert first.trained.validation == second.trained.validation


def test_a_node_without_rows_to_measure_on_trains_all_the_same(config: NodeConfig) -> None:
    update = unpack_update(ask("train", task(config, until=149)))

    assert isinstance(update, Update)
    assert update.trained.validation == ()


def test_a_part_of_a_host_is_measured_on_its_own_rows_alone(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = made_up.rows(200)
    changed.values[100:, 0] = 0.0  # of the second part
    content = task(config, cutoff=74, until=99)

    first = unpack_update(ask("train", content, {"part": 1, "parts": 2}))
    fill(monkeypatch, changed)
    second = unpack_update(ask("train", content, {"part": 1, "parts": 2}))

    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert [level.count for level in first.trained.validation] == [10, 10]
    assert first.trained == replace(second.trained, seconds=first.trained.seconds)


def test_the_task_says_how_fast_a_node_learns(config: NodeConfig) -> None:
    content = task(config, rate=1e-9)

    update = unpack_update(ask("train", content))

    assert isinstance(update, Update)
    before = content.array_records["arrays"].to_numpy_ndarrays()
    for array, old in zip(update.arrays[1:], before[1:], strict=True):
        np.testing.assert_allclose(array, old, atol=1e-7)


def test_a_proximal_term_keeps_the_weights_near_those_that_came(config: NodeConfig) -> None:
    free, held = (unpack_update(ask("train", task(config, mu=mu), local_epochs=8)) for mu in (0.0, 10.0))

    assert isinstance(free, Update)
    assert isinstance(held, Update)
    began = task(config).array_records["arrays"].to_numpy_ndarrays()
    moved = [
        sum(float(((array - old) ** 2).sum()) for array, old in zip(update.arrays[1:], began[1:], strict=True))
        for update in (free, held)
    ]
    assert moved[1] < moved[0] / 2
    np.testing.assert_array_equal(free.arrays[0], held.arrays[0])  # the linear part is not learned step by step


def test_too_few_training_windows_by_now_are_refused_in_training_too(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch, Rows(made_up.rows(200).times[130:], made_up.rows(200).values[130:]))

    refused = unpack_update(ask("train", task(config)))

    assert isinstance(refused, Refused)
    assert "11 of 20 training windows: they need" in refused.reason


def test_each_round_has_its_own_order_of_windows_and_the_same_whenever_it_is_repeated(config: NodeConfig) -> None:
    first, again, second = (unpack_update(ask("train", task(config, number))) for number in (1, 1, 2))

    assert isinstance(first, Update)
    assert isinstance(again, Update)
    assert isinstance(second, Update)
    assert all((one == two).all() for one, two in zip(first.arrays, again.arrays, strict=True))
    assert any((one != two).any() for one, two in zip(first.arrays, second.arrays, strict=True))


def test_training_arrays_of_another_model_is_refused(config: NodeConfig) -> None:
    refused = unpack_update(ask("train", task(config), hidden_size=9))

    assert isinstance(refused, Refused)
    assert "must be of shape" in refused.reason


@pytest.fixture
def model(config: NodeConfig) -> bytes:
    from icosfl.aggregate.model import start

    job = node.Job(config, TrainSettings.from_run_config(made_up.RUN_CONFIG), made_up.QUESTION)
    return to_bytes(start(job, "9").artifact)


def test_a_model_that_is_handed_out_is_measured_and_kept(config: NodeConfig, model: bytes) -> None:
    cutoff = int(made_up.rows(200).times[140])

    received = unpack_reply(ask("evaluate", pack_model(Handout(cutoff, None, 20), model)), Received)

    kept = load_latest(config.models_dir)
    assert isinstance(received, Received)
    assert kept is not None
    assert received.digest == kept.digest
    assert received.scores is not None
    evaluation = load_evaluation(config.models_dir, kept.digest)
    assert evaluation is not None
    assert evaluation.cutoff_ns == cutoff
    assert received.scores == evaluation.scores
    assert [(score.series, score.horizon_steps, score.count > 0) for score in received.scores.scores] == [
        ("cpu_usage", 1, True), ("cpu_usage", 5, True), ("power", 1, False), ("power", 5, False)
    ]  # fmt: skip
    assert evaluation.linear.fitted.tolist() == [True, False]


def test_supernodes_that_share_a_host_keep_one_model_and_the_evaluation_of_the_newest_rows(
    config: NodeConfig, model: bytes
) -> None:
    times = made_up.rows(200).times

    newest, oldest = (
        unpack_reply(
            ask("evaluate", pack_model(Handout(int(times[cutoff]), None, 20), model), {"part": part, "parts": 2}),
            Received,
        )
        for part, cutoff in ((2, 170), (1, 70))
    )

    assert isinstance(newest, Received)
    assert isinstance(oldest, Received)
    assert (oldest.host, newest.host) == ("worker-1/1", "worker-1/2")
    assert oldest.scores is not None
    assert [path.suffix for path in sorted(config.models_dir.glob("[!.]*.npz"))] == [".npz"]
    evaluation = load_evaluation(config.models_dir, newest.digest)
    assert evaluation is not None
    assert evaluation.cutoff_ns == times[170]


def test_the_receipt_says_what_a_round_would_have_said_of_the_same_arrays(config: NodeConfig, model: bytes) -> None:
    times = made_up.rows(200).times
    arrays = array_record(from_bytes(model, "the model").arrays)
    update = unpack_update(ask("train", pack_arrays(unpack(task(config, until=189), Task), arrays)))

    handout = pack_model(Handout(int(times[149]), int(times[189]), 20), model)
    received = unpack_reply(ask("evaluate", handout), Received)

    assert isinstance(update, Update)
    assert isinstance(received, Received)
    assert len(received.validation) == 2
    for told, trained in zip(received.validation, update.trained.validation, strict=True):
        assert replace(told, rmse=0.0) == replace(trained, rmse=0.0)
        assert told.rmse == pytest.approx(trained.rmse)


@pytest.mark.parametrize("problem", [NotReady("no"), SchemaMismatch("no"), StoreUnavailable("no")])
def test_a_model_that_cannot_be_measured_is_kept_and_the_reason_told(
    config: NodeConfig, model: bytes, problem: Exception
) -> None:
    def rows() -> Rows:
        raise problem

    received = unpack_reply(client_app.receive(config, pack_model(Handout(None, None, 20), model), rows), Received)

    assert isinstance(received, Received)
    assert (received.scores, received.reason) == (None, "no")
    assert load_latest(config.models_dir) is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"period_seconds": 5.0}, "the model was taught rows every 3 s, this node keeps one every 5 s"),
        (
            {"series": (made_up.SERIES[0], SeriesConfig(name="power", unit="kW"))},
            "the model was taught power in W, this node keeps it in kW",
        ),
        ({"series": made_up.SERIES[:1]}, "the model was taught power in W, this node keeps it not at all"),
    ],
)
def test_a_model_that_can_never_forecast_on_a_node_is_neither_measured_nor_kept(
    config: NodeConfig, model: bytes, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SchemaMismatch, match=reason):
        client_app.receive(
            replace(config, **change), pack_model(Handout(None, None, 20), model), lambda: made_up.rows(200)
        )

    assert load_latest(config.models_dir) is None


def test_a_damaged_model_is_refused_and_the_old_one_stays(config: NodeConfig, model: bytes) -> None:
    ask("evaluate", pack_model(Handout(None, None, 20), model))
    before = load_latest(config.models_dir)

    refused = unpack_reply(ask("evaluate", pack_model(Handout(None, None, 20), model[:-40])), Received)

    assert isinstance(refused, Refused)
    assert "no sound model file" in refused.reason
    after = load_latest(config.models_dir)
    assert before is not None
    assert after is not None
    assert before.digest == after.digest


def test_on_a_host_that_was_a_controller_what_is_handed_out_takes_the_best_model_s_place(
    config: NodeConfig, model: bytes
) -> None:
    own = replace(from_bytes(model, "the model"), run="own")
    save(own, config.models_dir)
    point_best(own, config.models_dir)

    ask("evaluate", pack_model(Handout(None, None, 20), model))

    served = load_served(config.models_dir)
    assert served is not None
    assert served.digest == from_bytes(model, "the model").digest


def check(digest: str, part: dict[str, int] | None = None) -> Checked | Refused:
    return unpack_reply(ask("query.check", pack(Check(digest, 3600.0)), part), Checked)


@pytest.fixture
def old_model(config: NodeConfig, model: bytes) -> Artifact:
    """One that was made long before the node's rows, and handed out."""
    old = replace(from_bytes(model, "the model"), created="2001-02-03T04:05:06+00:00")
    ask("evaluate", pack_model(Handout(None, None, 20), to_bytes(old)))
    return old


def test_a_node_says_how_good_its_model_is_on_its_newest_rows(config: NodeConfig, old_model: Artifact) -> None:
    checked = check(old_model.digest)

    assert isinstance(checked, Checked)
    assert (checked.host, checked.digest) == ("worker-1", old_model.digest)
    assert checked.since_ns == made_up.rows(200).times[149]
    assert [(level.series, level.count) for level in checked.levels] == [("cpu_usage", 46)] * 2
    assert [(level.series, level.count) for level in checked.before] == [("cpu_usage", 23)] * 2
    assert all(level.rmse < level.persistence for level in checked.levels)


def test_a_node_with_another_model_than_the_fleet_s_says_so(config: NodeConfig, old_model: Artifact) -> None:
    refused = check("0" * 64)

    assert isinstance(refused, Refused)
    assert refused.reason == f"has model {old_model.digest[:12]} instead of 000000000000"


@pytest.mark.usefixtures("config")
def test_a_node_without_a_model_says_so() -> None:
    refused = check("0" * 64)

    assert isinstance(refused, Refused)
    assert refused.reason == "has no model instead of 000000000000"


def test_of_the_supernodes_of_a_host_the_one_with_the_newest_rows_measures_the_model(
    config: NodeConfig, old_model: Artifact
) -> None:
    older, newest = (check(old_model.digest, {"part": part, "parts": 2}) for part in (1, 2))

    assert older == Refused(
        "worker-1/1", "its host's newest rows are another SuperNode's, which measures the model on them", ""
    )
    assert isinstance(newest, Refused)  # of its 100 rows 25 are later than its cutoff
    assert newest.host == "worker-1/2"
    assert "no verdict: 21 windows" in newest.reason


def test_stale_rows_tell_nothing_of_a_model(
    config: NodeConfig, old_model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(replace(config, stale_after_seconds=30.0), monkeypatch)
    newest = int(made_up.rows(200).times[-1])
    monkeypatch.setattr(client_app.time, "time_ns", lambda: newest + 90 * 10**9)

    refused = check(old_model.digest)

    assert isinstance(refused, Refused)
    assert refused.reason.startswith("its newest row is 90 s old, more than 30 s")
