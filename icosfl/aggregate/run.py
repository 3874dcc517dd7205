"""One federated run from its question to its result, step by step; Flower's ServerApp only calls it.

The loop of rounds is ours: Flower's own cannot begin at a later round, end early or do with the first replies. What it
does between two rounds is in a checkpoint, so that another ServerApp can go on where this one died. A round is saved
in this order: its model, the checkpoint, its event.
"""

from __future__ import annotations

import importlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from icosfl.aggregate import model
from icosfl.aggregate.check import check
from icosfl.aggregate.checkpoint import CHECKPOINT_FILE, Checkpoint, read_checkpoint, write_checkpoint
from icosfl.aggregate.combine import Combiner, Contribution
from icosfl.aggregate.ending import conclude, result_of, skills_of
from icosfl.aggregate.exchange import Answers, Exchange
from icosfl.aggregate.experiments import Recorder, open_recorder
from icosfl.aggregate.grid import BoundedGrid
from icosfl.aggregate.guards import Expected
from icosfl.aggregate.names import read_names
from icosfl.aggregate.policy import (
    Choice,
    Measured,
    Selection,
    count_missed,
    enough,
    learning_rate,
    select,
    weigh,
)
from icosfl.aggregate.progress import (
    RESULT_FILE,
    Absent,
    Failed,
    Finished,
    ProgressLog,
    Ready,
    Resumed,
    RoundDone,
    Started,
    Stopped,
    Waiting,
    prune_runs,
    read_progress,
    utc_now,
)
from icosfl.aggregate.record import hold, purpose_of, read_config, write_config
from icosfl.aggregate.report import report
from icosfl.aggregate.roster import Member, Roster, call
from icosfl.aggregate.settings import CHECK, RESUME, RunSettings, resumed_run
from icosfl.config import NodeConfig, SeriesConfig, schema_of
from icosfl.errors import IcosflError, RunFailed, StoreUnavailable
from icosfl.schema import Rows
from icosfl.store import open_store
from icosfl.train.artifact import Artifact, load_exactly, save
from icosfl.train.files import write_atomically
from icosfl.train.messages import Question, Task
from icosfl.train.node import Job
from icosfl.train.prune import prune_models
from icosfl.train.records import array_record, pack_arrays
from icosfl.train.validation import fleet_skill

_NEW_RUN = "start a new run: icosfl train"

logger = logging.getLogger(__name__)


def federate(grid: Grid, run: str, node: NodeConfig, config: Mapping[str, object]) -> None:
    """Run it all on the controller, or what an interrupted run has left to do.

    Args:
        grid: Flower's way to the nodes.
        run: Flower's number of what it runs.
        node: The controller's configuration.
        config: The run's configuration.

    Raises:
        RunFailed: too few nodes could take part, replied with valid updates, or took the model; or the run to go on
            with is over, was never begun, or has another ServerApp: then its record stays as it is.
        IcosflError: something else that has a name. Whatever it is, the run's progress says so first if it can.
    """
    earlier = resumed_run(config)
    directory = node.runs_dir / (earlier or run)
    with hold(directory):
        if earlier:
            _require_unfinished(directory)
        log = ProgressLog(directory)
        try:
            log.mend()
            settings = RunSettings.from_run_config(config)
            try:
                _begin(log, run, settings, config)
                _carry_out(BoundedGrid(grid), node, settings, log)
            finally:
                prune_runs(node.runs_dir, settings.keep_models, directory.name, purpose_of)
        except IcosflError as error:
            _tell(log, Failed(utc_now(), error.message, error.cure))
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            _tell(log, Failed(utc_now(), reason, "`flwr log` on the controller has the whole of it"))
            raise


def _carry_out(grid: BoundedGrid, node: NodeConfig, settings: RunSettings, log: ProgressLog) -> None:
    if settings.purpose == CHECK:
        check(grid, log.directory.name, node, settings)
    else:
        _Training(grid, node, settings, log).steps()


def _begin(log: ProgressLog, run: str, settings: RunSettings, config: Mapping[str, object]) -> None:
    """Open the record of a new run, or that of the run that goes on.

    Raises:
        RunFailed: the run began with another configuration.
        CheckpointError: its state cannot be read.
    """
    kept = {key: value for key, value in config.items() if key != RESUME}
    train = settings.train
    if not settings.resume:
        write_config(log.directory, kept)
        log.append(Started(utc_now(), run, train.num_server_rounds, train.min_nodes))
        return
    begun = read_config(log.directory)
    other = sorted(key for key in begun.keys() & kept.keys() if begun[key] != kept[key])  # a release adds keys
    if other:
        told = "; ".join(f"{key} was {begun[key]!r}, and is {kept[key]!r}" for key in other)
        raise RunFailed(f"run {settings.resume} cannot go on with other settings: {told}", cure=_NEW_RUN)
    if not any(isinstance(event, Started) for event in read_progress(log.directory)):
        log.append(Started(utc_now(), settings.resume, train.num_server_rounds, train.min_nodes))
    saved = read_checkpoint(log.directory)
    log.append(Resumed(utc_now(), settings.resume, run, 0 if saved is None else saved[0].round))


def _require_unfinished(directory: Path) -> None:
    """Make sure that there is something to go on with.

    Raises:
        RunFailed: there is not.
    """
    if not read_config(directory):
        raise RunFailed(f"run {directory.name} cannot go on: there is no record of it in {directory}", cure=_NEW_RUN)
    if any(isinstance(event, Finished) for event in read_progress(directory)):
        raise RunFailed(f"run {directory.name} cannot go on: it is finished", cure=_NEW_RUN)


def _tell(log: ProgressLog, failed: Failed) -> None:
    """Say why the run failed; when that cannot be written, the reason itself still goes up to Flower."""
    try:
        log.append(failed)
    except RunFailed as error:
        logger.error("%s; the progress of the run ends here: %s", failed.line, error)  # noqa: TRY400 (it says it all)


class _Training:
    """The steps of a training run."""

    def __init__(self, grid: BoundedGrid, node: NodeConfig, settings: RunSettings, log: ProgressLog) -> None:
        self._grid = grid
        self._node = node
        self._settings = settings
        self._log = log
        self._run = log.directory.name
        self._job = Job(node, settings.train, _question(node, settings))
        self._combiner = Combiner(settings.combine, self._job.shape)
        self._exchange = Exchange(grid, settings.policy.timeout_seconds)
        self._least = max(settings.train.min_nodes, self._combiner.least)
        self._began = time.monotonic()

    def steps(self) -> None:
        """Ask, train round by round, hand out; however it ends, old models are deleted on the controller."""
        past = [event for event in read_progress(self._log.directory) if isinstance(event, RoundDone)]
        recorder = open_recorder(self._settings, self._run, self._log.directory, past)
        needed: set[str] | None = None
        finished: Finished | None = None
        try:
            state, artifact = self._state(recorder)
            needed = _needed(state)
            rows = self._own_rows()
            while state.round < self._settings.train.num_server_rounds and state.stopped is None:
                needed = _needed(state)
                state, artifact = self._round(state, artifact, rows)
                self._tell(state, recorder)
            needed = _needed(state)
            finished = self._finish(state, artifact, rows, recorder)
        finally:
            recorder.finish(finished)
            if needed is not None:  # else it is unknown which models the run needs to go on
                prune_models(self._node.models_dir, self._settings.keep_models, needed)

    def _state(self, recorder: Recorder) -> tuple[Checkpoint, Artifact]:
        """Where the run begins, or goes on.

        Raises:
            RunFailed: too few nodes take part.
            CheckpointError: what was saved cannot be read, or cannot be saved.
        """
        saved = read_checkpoint(self._log.directory) if self._settings.resume else None
        if saved is None:
            state, artifact = self._start()
        else:
            found, combining = saved
            self._combiner.restore(combining)
            self._began -= found.seconds
            state = replace(found, roster=found.roster.found_again(read_names(self._node.runs_dir)))
            artifact = self._saved(state)
        self._tell(state, recorder)
        return state, artifact

    def _start(self) -> tuple[Checkpoint, Artifact]:
        roster = self._roster()
        roster.require(self._least)
        started = model.start(self._job, self._run, warm=self._settings.warm_start)
        candidates = tuple(member.candidate for member in roster.members)
        parent = started.artifact.parent
        state = Checkpoint(
            run=self._run,
            round=0,
            file=started.parent_file,
            digest=parent or "",
            roster=roster,
            missed={},
            choice=Choice(),
            seconds=time.monotonic() - self._began,
            ready=Ready(utc_now(), candidates, roster.left_out, parent, started.fresh_because),
            done=None,
            stopped=None,
        )
        write_checkpoint(self._log.directory, state, self._combiner.state())
        return state, started.artifact

    def _saved(self, state: Checkpoint) -> Artifact:
        """The model that the next round begins with."""
        models = self._node.models_dir
        saved = load_exactly(models / state.file, state.digest, CHECKPOINT_FILE) if state.file else None
        if saved is None or state.round == 0:
            return model.begun(self._job, self._run, saved)
        save(saved, models)  # `latest` may name the model of a round that was not completed
        return saved

    def _roster(self) -> Roster:
        """Ask the nodes, and load torch meanwhile: it takes seconds, and is needed as soon as they have answered."""
        loading = threading.Thread(target=importlib.import_module, args=["icosfl.train.loop"])
        loading.start()
        names, timeout = read_names(self._node.runs_dir), self._settings.query_timeout_seconds
        try:
            return call(self._grid, self._job.question, self._least, timeout, names, self._waiting)
        finally:
            loading.join()

    def _waiting(self, online: int, missing: tuple[str, ...]) -> None:
        self._log.append(Waiting(utc_now(), online, self._least, missing))

    def _own_rows(self) -> Rows | None:
        try:
            with open_store(self._node.store, schema_of(self._node.series), read_only=True) as store:
                return store.window().rows
        except StoreUnavailable as error:
            logger.warning("the model will not be evaluated here: %s", error)
            return None

    def _round(self, before: Checkpoint, artifact: Artifact, rows: Rows | None) -> tuple[Checkpoint, Artifact]:
        """Do one round: its model is saved, and then the state that this returns too.

        Raises:
            RunFailed: too few nodes are there, or too few valid updates.
            CheckpointError: the disk does not take them.
        """
        started, number = time.monotonic(), before.round + 1
        train, policy = self._settings.train, self._settings.policy
        rate = learning_rate(policy, train.learning_rate, number, train.num_server_rounds)
        selection = self._selection(before, number)
        answers = self._answers(number, artifact, selection, rate)
        left_out = [*selection.left_out, *answers.left_out]
        _require(number, len(answers.updates), selection.need, left_out, "valid updates")
        series = {member.host: member.series for member in before.roster.members}
        names = artifact.schema.names
        contributions = [
            Contribution(host, update.arrays, update.examples, np.array([name in series[host] for name in names]))
            for host, update in answers.updates.items()
        ]
        combined = self._combiner.combine(number, list(artifact.arrays), contributions)
        left_out += combined.notes
        for absent in left_out:
            logger.warning("round %s: %s", number, absent)
        taught = {name for host in combined.used for name in series[host]}
        after = model.after_round(artifact, number, combined.used, taught, combined.arrays)
        save(after, self._node.models_dir)
        levels = {
            host: known
            for host, update in answers.updates.items()
            if (known := model.known_levels(update.trained.validation, artifact))
        }
        choice = before.choice
        if before.file:
            measured = Measured(before.round, before.file, before.digest, levels)
            choice = weigh(choice, measured, policy.min_improvement)
        used = [answers.updates[host] for host in combined.used]
        examples = sum(update.examples for update in used)
        done = RoundDone(
            time=utc_now(),
            round=number,
            of=train.num_server_rounds,
            nodes=combined.used,
            left_out=tuple(left_out),
            loss=sum(update.trained.loss * update.examples for update in used) / examples,
            examples=examples,
            seconds=time.monotonic() - started,
            digest=after.digest,
            evaluation=model.evaluate(after, self._node, rows),
            skills=skills_of(levels),
            skill=fleet_skill(levels),
            seconds_by_node=answers.seconds,
            learning_rate=rate,
            epsilon=combined.epsilon,
        )
        reason = enough(choice, policy.patience) if number < train.num_server_rounds else ""
        state = Checkpoint(
            run=self._run,
            round=number,
            file=after.file_name,
            digest=after.digest,
            roster=before.roster,
            missed=count_missed(before.missed, answers.seconds, answers.silent),
            choice=choice,
            seconds=time.monotonic() - self._began,
            ready=before.ready,
            done=done,
            stopped=Stopped(utc_now(), number, train.num_server_rounds, reason) if reason else None,
        )
        write_checkpoint(self._log.directory, state, self._combiner.state())
        return state, after

    def _selection(self, before: Checkpoint, number: int) -> Selection:
        """Choose whom to ask; while too few are free, wait for others, as long as for answers to a query at most.

        Raises:
            RunFailed: too few are free.
        """

        def look() -> Selection:
            self._exchange.drop_late()
            return select(
                before.roster.members,
                set(self._grid.get_node_ids()),
                busy=self._exchange.busy,
                missed=before.missed,
                policy=self._settings.policy,
                least=self._least,
                seed=self._settings.train.seed,
                number=number,
            )

        def ample(selection: Selection) -> bool:
            return len(selection.free) >= self._least

        selection = look()
        if not ample(selection):
            self._waiting(len(selection.free), tuple(absent.host for absent in selection.left_out))
            selection = self._grid.poll(look, ample, self._settings.query_timeout_seconds)
        _require(number, len(selection.free), self._least, selection.left_out, "nodes online")
        return selection

    def _answers(self, number: int, artifact: Artifact, selection: Selection, rate: float) -> Answers:
        version, arrays = f"{self._run}/{number}", array_record(artifact.arrays)
        task = Task(version, number, self._job.question, 0, 0, rate, self._combiner.proximal_mu)

        def message(member: Member) -> Message:
            own = replace(task, cutoff_ns=member.cutoff_ns, until_ns=member.until_ns)
            return Message(pack_arrays(own, arrays), member.node, MessageType.TRAIN, group_id=str(number))

        return self._exchange.train(
            number,
            [(member, message(member)) for member in selection.asked],
            selection.take,
            lambda member: Expected(member.host, version, artifact.shape, member.candidate.windows),
        )

    def _tell(self, state: Checkpoint, recorder: Recorder) -> None:
        """Tell what the state says, as far as it has not been told."""
        told = read_progress(self._log.directory)
        for event in (state.ready, state.done, state.stopped):
            if event is not None and event not in told:
                self._log.append(event)
                if isinstance(event, RoundDone):
                    recorder.round(event)

    def _finish(self, state: Checkpoint, artifact: Artifact, rows: Rows | None, recorder: Recorder) -> Finished:
        """Hand out, write report and result, then say that the run is over.

        Raises:
            RunFailed: fewer nodes than a round needs took the model.
        """
        keep, timeout = self._settings.keep_models, self._settings.policy.timeout_seconds
        outcome = conclude(self._grid, self._node, state, artifact, rows, keep, timeout)
        delivery, directory = outcome.delivery, self._log.directory
        seconds = time.monotonic() - self._began
        epsilon = None if state.done is None else state.done.epsilon
        finished = Finished(
            time=utc_now(),
            rounds=state.round,
            nodes=tuple(receipt.host for receipt in delivery.received),
            left_out=delivery.missing,
            digest=outcome.artifact.digest,
            seconds=seconds,
            round=outcome.round,
            skill=fleet_skill(outcome.levels),
            epsilon=epsilon,
            why=outcome.why,
        )
        result = result_of(outcome, self._run, state.round, seconds, self._node.host, epsilon)
        events = [*read_progress(directory), finished]
        trouble = report(directory, events, result, outcome.artifact, self._node, rows, read_config(directory))
        result["troubles"] = {"report": trouble, "records": recorder.trouble}
        write_atomically(directory / RESULT_FILE, json.dumps(result, indent=1, allow_nan=False).encode())
        least = self._settings.train.min_nodes
        if len(delivery.received) < least:
            why = "; ".join(str(absent) for absent in delivery.missing) or "no node is online"
            raise RunFailed(
                f"the model is saved on {self._node.host}, but {len(delivery.received)} of at least {least} nodes "
                f"took it: {why}",
                cure="look at `icosfl status`, then hand it out once more: icosfl train --resume",
            )
        self._log.append(finished)
        return finished


def _question(node: NodeConfig, settings: RunSettings) -> Question:
    """Ask for the run's series in the controller's units.

    Raises:
        SchemaMismatch: the controller's store lacks one.
    """
    wanted = schema_of(node.series).select(settings.train.series).series
    series = tuple(SeriesConfig(name=one.name, unit=one.unit) for one in wanted)
    return Question(series=series, period_seconds=node.period_seconds)


def _needed(state: Checkpoint) -> set[str]:
    """The digests of the models without which a run could not go on, or hand its best one out."""
    best = state.choice.best
    return {state.digest, *(() if best is None else (best.digest,))}


def _require(number: int, there: int, need: int, left_out: Sequence[Absent], what: str) -> None:
    if there < need:
        why = "; ".join(str(absent) for absent in left_out) or "no other node takes part"
        raise RunFailed(
            f"round {number}: {there} {what}, at least {need} are needed: {why}",
            cure="look at `icosfl status` and the log of the nodes' executors, or lower min-nodes",
        )
