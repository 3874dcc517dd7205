"""One federated run from its question to its result, step by step; Flower's ServerApp only calls it."""

from __future__ import annotations

import importlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from icosfl.aggregate import model
from icosfl.aggregate.grid import BoundedGrid
from icosfl.aggregate.handout import Delivery, hand_out
from icosfl.aggregate.progress import (
    RESULT_FILE,
    Failed,
    Finished,
    ProgressLog,
    Ready,
    RoundDone,
    Started,
    prune_runs,
    utc_now,
)
from icosfl.aggregate.roster import Roster, call
from icosfl.aggregate.settings import RunSettings
from icosfl.aggregate.strategy import CheckedFedAvg
from icosfl.config import NodeConfig, SeriesConfig, schema_of
from icosfl.errors import IcosflError, RunFailed, StoreUnavailable
from icosfl.schema import Rows
from icosfl.store import open_store
from icosfl.train.artifact import Artifact, save
from icosfl.train.files import write_atomically
from icosfl.train.messages import Question, Task
from icosfl.train.node import Job
from icosfl.train.prune import prune_models
from icosfl.train.records import array_record
from icosfl.train.scores import summary

logger = logging.getLogger(__name__)


def federate(grid: Grid, run: str, node: NodeConfig, config: Mapping[str, object]) -> Artifact:
    """Run it all on the controller; returns the global model, which every node that the result names has.

    Args:
        grid: Flower's way to the nodes.
        run: The run's id.
        node: The controller's configuration.
        config: The run's configuration.

    Raises:
        RunFailed: too few nodes could take part, replied with valid updates, or took the model.
        IcosflError: something else that has a name. Whatever it is, the run's progress says so first if it can.
    """
    log = ProgressLog(node.runs_dir / run)
    try:
        return _Run(BoundedGrid(grid), run, node, RunSettings.from_run_config(config), log).steps()
    except IcosflError as error:
        _tell(log, Failed(utc_now(), error.message, error.cure))
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        _tell(log, Failed(utc_now(), reason, "`flwr log` on the controller has the whole of it"))
        raise


def _tell(log: ProgressLog, failed: Failed) -> None:
    """Say why the run failed; when that cannot be written, the reason itself still goes up to Flower."""
    try:
        log.append(failed)
    except RunFailed as error:
        logger.error("%s; the progress of the run ends here: %s", failed.line, error)  # noqa: TRY400 (it says it all)


class _Run:
    """The steps of a run."""

    def __init__(self, grid: BoundedGrid, run: str, node: NodeConfig, settings: RunSettings, log: ProgressLog) -> None:
        self._grid = grid
        self._run = run
        self._node = node
        self._settings = settings
        self._log = log
        self._started = time.monotonic()

    def steps(self) -> Artifact:
        """Ask, train round by round, hand out; however it ends, old models and runs are deleted on the controller."""
        try:
            return self._steps()
        finally:
            prune_models(self._node.models_dir, self._settings.keep_models)
            prune_runs(self._node.runs_dir, self._settings.keep_models, self._run)

    def _steps(self) -> Artifact:
        train = self._settings.train
        self._log.append(Started(utc_now(), self._run, train.num_server_rounds, train.min_nodes))
        job = Job(self._node, train, self._question())
        roster = self._roster(job)
        begun = self._begin(job, roster)
        rows = self._own_rows()
        strategy = self._strategy(job, roster, begun)
        rounds = _Rounds(self._log, self._node, strategy, begun, rows, train.num_server_rounds)
        strategy.start(
            self._grid,
            array_record(begun.arrays),
            num_rounds=train.num_server_rounds,
            timeout=train.round_timeout_seconds,
            evaluate_fn=rounds.after,
        )
        keep = self._settings.keep_models
        delivery = hand_out(self._grid, rounds.artifact, roster, keep, train.round_timeout_seconds)
        self._finish(rounds, delivery)
        return rounds.artifact

    def _question(self) -> Question:
        """Ask for the run's series in the controller's units.

        Raises:
            SchemaMismatch: the controller's store lacks one.
        """
        wanted = schema_of(self._node.series).select(self._settings.train.series).series
        series = tuple(SeriesConfig(name=one.name, unit=one.unit) for one in wanted)
        return Question(series=series, period_seconds=self._node.period_seconds)

    def _roster(self, job: Job) -> Roster:
        """Ask the nodes, and load torch meanwhile: it takes seconds, and is needed as soon as they have answered."""
        loading = threading.Thread(target=importlib.import_module, args=["icosfl.train.loop"])
        loading.start()
        try:
            return call(self._grid, job.question, job.settings.min_nodes, self._settings.query_timeout_seconds)
        finally:
            loading.join()

    def _begin(self, job: Job, roster: Roster) -> Artifact:
        roster.require(self._settings.train.min_nodes)
        started = model.start(job, self._run)
        candidates = tuple(member.candidate for member in roster.members)
        parent = started.artifact.parent
        self._log.append(Ready(utc_now(), candidates, roster.left_out, parent, started.fresh_because))
        return started.artifact

    def _own_rows(self) -> Rows | None:
        try:
            with open_store(self._node.store, schema_of(self._node.series), read_only=True) as store:
                return store.window().rows
        except StoreUnavailable as error:
            logger.warning("the model will not be evaluated here: %s", error)
            return None

    def _strategy(self, job: Job, roster: Roster, begun: Artifact) -> CheckedFedAvg:
        train = self._settings.train
        return CheckedFedAvg(
            roster.members,
            Task("", 0, job.question, 0, 0, train.learning_rate),
            shape=begun.shape,
            run=self._run,
            min_nodes=train.min_nodes,
            timeout=train.round_timeout_seconds,
        )

    def _finish(self, rounds: _Rounds, delivery: Delivery) -> None:
        """Write the result, then say that the run is over.

        Raises:
            RunFailed: fewer nodes than a round needs took the model.
        """
        artifact = rounds.artifact
        seconds = time.monotonic() - self._started
        scores = {receipt.host: receipt.scores for receipt in delivery.received if receipt.scores is not None}
        result = {
            "run": self._run,
            "digest": artifact.digest,
            "rounds": artifact.round,
            "trained_by": list(artifact.nodes),
            "seconds": seconds,
            "controller": {"host": self._node.host, **rounds.evaluation},
            "nodes": [
                {
                    "host": receipt.host,
                    "scores": None if receipt.scores is None else receipt.scores.to_dict(),
                    "reason": receipt.reason,
                }
                for receipt in delivery.received
            ],
            "summary": [each.to_dict() for each in summary(scores)],
            "missing": [{"host": absent.host, "reason": absent.reason} for absent in delivery.missing],
        }
        write_atomically(
            self._node.runs_dir / self._run / RESULT_FILE, json.dumps(result, indent=1, allow_nan=False).encode()
        )
        least = self._settings.train.min_nodes
        if len(delivery.received) < least:
            why = "; ".join(str(absent) for absent in delivery.missing) or "no node is online"
            raise RunFailed(
                f"the model is saved on {self._node.host}, but {len(delivery.received)} of at least {least} nodes "
                f"took it: {why}",
                cure="look at `icosfl status`, then train again",
            )
        hosts = tuple(receipt.host for receipt in delivery.received)
        self._log.append(Finished(utc_now(), artifact.round, hosts, delivery.missing, artifact.digest, seconds))


class _Rounds:
    """What is done with the average of each round: evaluated, saved, told of."""

    def __init__(  # noqa: PLR0913, PLR0917 (the parts of a run)
        self,
        log: ProgressLog,
        node: NodeConfig,
        strategy: CheckedFedAvg,
        begun: Artifact,
        rows: Rows | None,
        of: int,
    ) -> None:
        self._log = log
        self._node = node
        self._strategy = strategy
        self._rows = rows
        self._of = of
        self.artifact = begun
        self.evaluation: dict[str, Any] = {}

    def after(self, number: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Called by Flower's strategy before the first round with number 0, and after each round."""
        report = self._strategy.report
        if number == 0 or report is None:
            return None
        self.artifact = model.after_round(
            self.artifact, number, report.nodes, report.series, arrays.to_numpy_ndarrays()
        )
        self.evaluation = model.evaluate(self.artifact, self._node, self._rows)
        save(self.artifact, self._node.models_dir)
        self._log.append(
            RoundDone(
                time=utc_now(),
                round=number,
                of=self._of,
                nodes=report.nodes,
                left_out=report.left_out,
                loss=report.loss,
                examples=report.examples,
                seconds=time.monotonic() - report.started,
                digest=self.artifact.digest,
                evaluation=self.evaluation,
            )
        )
        return MetricRecord({"loss": report.loss, "examples": report.examples})
