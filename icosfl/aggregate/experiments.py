"""Where the rounds of a run are recorded besides its own record: TensorBoard, MLflow or Weights & Biases, on this host.

Nothing is sent anywhere. TensorBoard's and wandb's files lie in the run's own directory and go with it; MLflow's runs
are kept together in one SQLite database beside the runs. A store that fails never fails a run: the trouble is logged
and kept for whoever asks.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from icosfl.aggregate.progress import Failed, Finished, RoundDone
from icosfl.aggregate.settings import NO_RECORDS, RunSettings
from icosfl.config import environment
from icosfl.errors import ConfigError

TENSORBOARD, MLFLOW, WANDB = "tensorboard", "mlflow", "wandb"
TENSORBOARD_DIRECTORY = "tensorboard"
WANDB_DIRECTORY = "wandb"
# Beside the runs, as all of them are in it.
MLFLOW_DATABASE = Path("experiments", "mlflow.db")
EXPERIMENT = "icosfl"

LOSS, SKILL = "loss", "skill"

_PACKAGES = {TENSORBOARD: "tensorboardX", MLFLOW: "mlflow", WANDB: "wandb"}
_RUN_TAG = "icosfl.run"
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 80
# How many values MLflow takes at once.
_BATCH = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Point:
    """Values of one step.

    Args:
        step: The round after which they hold; 0: before the first.
        seconds: When they were known, since the epoch.
        values: By name; finite.
    """

    step: int
    seconds: float
    values: Mapping[str, float]


class Recorder:
    """Records the rounds of one run; none of its methods raises what a store raises.

    Args:
        connect: Opens the store; it is called at the first round.
        past: The rounds that the store must know before.
    """

    def __init__(self, connect: Callable[[], _Store], past: Sequence[RoundDone]) -> None:
        self._connect = connect
        self._past = past
        self._store: _Store | None = None
        self._over = False
        self.trouble = ""

    def round(self, event: RoundDone) -> None:
        """Record a round."""
        self._carefully(lambda: self._opened().write(points(event)))

    def finish(self, last: Finished | Failed | None) -> None:
        """Record how the run ended, and close the store.

        Args:
            last: The run's last word, None if it has none.
        """
        if self._over:
            return
        self._over = True
        if isinstance(last, Finished):
            self._carefully(lambda: self._opened().write(last_points(last)))
        store = self._store
        if store is not None:
            self._carefully(lambda: store.close(isinstance(last, Finished)), even_so=True)

    def _opened(self) -> _Store:
        if self._store is None:
            self._store = self._connect()
            self._store.write([point for event in self._past for point in points(event)])
        return self._store

    def _carefully(self, act: Callable[[], None], *, even_so: bool = False) -> None:
        if self.trouble and not even_so:
            return
        try:
            act()
        except Exception as error:  # another's program: whatever it raises, the run goes on
            self.trouble = self.trouble or f"{type(error).__name__}: {error}"
            logger.warning("the rounds are no longer recorded: %s", self.trouble)


class _Store(Protocol):
    """One run in one of the stores."""

    def write(self, points: Sequence[Point]) -> None: ...

    def close(self, good: bool) -> None: ...


def check_records(records: str) -> None:
    """Make sure that this release has what records need.

    Raises:
        ConfigError: it has not.
    """
    package = _PACKAGES.get(records)
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"experiment-records: {records!r} needs the package {package}, which this release does not have",
            cure=f"icosfl_release_extras: [{records}], then `icosfl up`; or record with tensorboard, or none",
        )


def open_recorder(settings: RunSettings, run: str, directory: Path, past: Sequence[RoundDone] = ()) -> Recorder:
    """Get ready to record a run.

    Args:
        settings: Of the run; `records` says where, and all of them are recorded with it.
        run: The run's id.
        directory: The run's own.
        past: The rounds that a resumed run already had: the store gets what it lacks of them.

    Raises:
        ConfigError: this release cannot record there.
    """
    check_records(settings.records)
    told = flat(asdict(settings))
    stores: dict[str, Callable[[], _Store]] = {
        NO_RECORDS: _Nowhere,
        TENSORBOARD: lambda: _TensorBoard(directory / TENSORBOARD_DIRECTORY, told),
        MLFLOW: lambda: _Mlflow(directory.parent / MLFLOW_DATABASE, run, told),
        WANDB: lambda: _Wandb(directory / WANDB_DIRECTORY, run, told),
    }
    return Recorder(stores[settings.records], past)


def points(event: RoundDone) -> list[Point]:
    """What a round says: of the model that it began with (the step before), and of itself (its own step)."""
    before: dict[str, float | None] = {SKILL: event.skill}
    before |= {f"skill_by_node/{_name(host)}": skill for host, skill in event.skills.items()}
    after: dict[str, float | None] = {
        LOSS: event.loss,
        "examples": event.examples,
        "seconds": event.seconds,
        "nodes": len(event.nodes),
        "left_out": len(event.left_out),
        "learning_rate": event.learning_rate,
        "epsilon": event.epsilon,
    }
    after |= {f"seconds_by_node/{_name(host)}": seconds for host, seconds in event.seconds_by_node.items()}
    after |= _measured(event.evaluation)
    return _points([(event.round - 1, before), (event.round, after)], event.time)


def last_points(last: Finished) -> list[Point]:
    """What the end of a run says: which model was handed out, and the skill of the last round's if it is that one."""
    told: dict[str, float | None] = {"handed_out/round": last.round, "handed_out/skill": last.skill}
    if last.round == last.rounds:
        told[SKILL] = last.skill
    return _points([(last.rounds, told)], last.time)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as plain ones, named by their path with dots; what is no number or text is told as text."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.")
        else:
            found[path] = value if isinstance(value, str | int | float | bool) else str(value)
    return found


class _Nowhere:
    """Keeps nothing."""

    def write(self, points: Sequence[Point]) -> None: ...

    def close(self, good: bool) -> None: ...


class _TensorBoard:
    """Event files that TensorBoard reads: `tensorboard --logdir RUNS_DIR` shows all runs."""

    def __init__(self, directory: Path, settings: Mapping[str, object]) -> None:
        from tensorboardX import SummaryWriter

        shutil.rmtree(directory, ignore_errors=True)  # of a ServerApp that died: all of it is written anew
        self._writer = SummaryWriter(str(directory), write_to_disk=True)
        lines = [f"| {name} | {value} |" for name, value in settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *lines]), 0)

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step, walltime=point.seconds)
        self._writer.flush()

    def close(self, good: bool) -> None:
        self._writer.add_text("end", "finished" if good else "failed", 0)
        self._writer.close()


class _Mlflow:
    """A run in MLflow's database: `mlflow ui --backend-store-uri sqlite:///PATH` shows all runs."""

    def __init__(self, database: Path, run: str, settings: Mapping[str, object]) -> None:
        with environment({"MLFLOW_DISABLE_TELEMETRY": "true"}):
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient

        self._metric = Metric
        database.parent.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        found = self._client.get_experiment_by_name(EXPERIMENT)
        files = (database.parent / "mlflow-files").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, files)
        earlier = self._client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{run}'")
        self._known: set[tuple[str, int]] = set()
        if earlier:
            self._run = str(earlier[0].info.run_id)
            self._client.update_run(self._run, status="RUNNING")
            for name in earlier[0].data.metrics:
                self._known |= {(name, each.step) for each in self._client.get_metric_history(self._run, name)}
        else:
            made = self._client.create_run(experiment, run_name=run, tags={_RUN_TAG: run})
            self._run = str(made.info.run_id)
            params = [Param(name, str(value)) for name, value in settings.items()]
            self._client.log_batch(self._run, params=params)

    def write(self, points: Sequence[Point]) -> None:
        values = [
            self._metric(name, value, round(point.seconds * 1000), point.step)
            for point in points
            for name, value in point.values.items()
            if (name, point.step) not in self._known
        ]
        for first in range(0, len(values), _BATCH):
            self._client.log_batch(self._run, metrics=values[first : first + _BATCH])

    def close(self, good: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if good else "FAILED")


class _Wandb:
    """A run recorded offline: `wandb sync DIRECTORY/offline-run-*` takes it to a server, if anyone wants to."""

    def __init__(self, directory: Path, run: str, settings: Mapping[str, object]) -> None:
        shutil.rmtree(directory, ignore_errors=True)  # of a ServerApp that died: all of it is written anew
        directory.mkdir(parents=True)
        # nothing in the user's home, and no word to anyone
        told = {f"WANDB_{name}_DIR": str(directory) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
        with environment(told | {"WANDB_ERROR_REPORTING": "false"}):
            self._run = _begun(directory.parent, run, settings)
        self._run.define_metric("*", step_metric="round")

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log({"round": point.step, **point.values})

    def close(self, good: bool) -> None:
        import wandb

        self._run.finish(exit_code=0 if good else 1)
        wandb.teardown()  # its own process still writes until it ends


def _begun(directory: Path, run: str, settings: Mapping[str, object]) -> Any:
    """A run of wandb's that looks at nothing but what it is given."""
    import wandb

    quiet = wandb.Settings(
        console="off",
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        silent=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
    )
    return wandb.init(
        project=EXPERIMENT, id=run, name=run, dir=str(directory), mode="offline", config=dict(settings), settings=quiet
    )


def _points(steps: Sequence[tuple[int, Mapping[str, float | None]]], time: str) -> list[Point]:
    seconds = datetime.fromisoformat(time).timestamp()
    found = []
    for step, told in steps:
        values = {name: value for name, value in told.items() if value is not None and math.isfinite(value)}
        if values:
            found.append(Point(step, seconds, values))
    return found


def _measured(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """The controller's own scores: RMSE by predictor, and what the interval held."""
    found: dict[str, float | None] = {}
    for score in (evaluation.get("scores") or {}).get("scores", ()):
        place = f"controller/{_name(score['series'])}_{score['horizon_seconds']:g}s"
        found |= {f"{place}/{predictor}_rmse": errors["rmse"] for predictor, errors in score["errors"].items()}
        found[f"{place}/coverage"] = score["coverage"]
    return found


def _name(text: str) -> str:
    """A host or series as a part of a value's name that each store takes: hosts say themselves what they are called."""
    return _NO_NAME.sub("_", text)[:_LONGEST_NAME] or "_"
