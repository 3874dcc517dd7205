"""The node's side of a run, as Flower calls it: each message is a process of its own, so what is imported counts.

Every error of ours becomes a reply that says who refuses and why; Flower's own error replies would lose that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from icosfl.config import NodeConfig, load, node_config_path, schema_of
from icosfl.errors import IcosflError, NotReady, SchemaMismatch, Unavailable
from icosfl.schema import Rows
from icosfl.store import open_store
from icosfl.train import artifact as artifacts
from icosfl.train import drift
from icosfl.train import node as work
from icosfl.train.messages import CHECK, Check, Handout, Question, Received, Refused, Task
from icosfl.train.prune import prune_models
from icosfl.train.records import pack, pack_update, unpack, unpack_arrays, unpack_model
from icosfl.train.settings import TrainSettings
from icosfl.train.share import WHOLE, Share

logger = logging.getLogger(__name__)

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say whether this node can take part in a run, and what it brings."""

    def answer(node: NodeConfig, share: Share) -> RecordDict:
        job = work.Job(node, _settings(context), unpack(message.content, Question))
        rows = _rows(node)
        return pack(work.stand(job, share.take(rows), work.staleness(node, rows, time.time_ns())))

    return _reply(message, context, answer)


@app.query(CHECK)
def check(message: Message, context: Context) -> Message:
    """Measure the model that this node has on its newest rows."""
    return _reply(message, context, lambda node, share: recheck(node, message.content, lambda: _rows(node), share))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's rows."""

    def answer(node: NodeConfig, share: Share) -> RecordDict:
        task = unpack(message.content, Task)
        job = work.Job(node, _settings(context), task.question)
        rows = share.take_at(_rows(node), task.cutoff_ns, job.settings.train_fraction)
        return pack_update(work.train(job, rows, task, unpack_arrays(message.content)))

    return _reply(message, context, answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Keep the model that the run made, and measure it on this node's rows."""
    return _reply(message, context, lambda node, share: receive(node, message.content, lambda: _rows(node), share))


def receive(node: NodeConfig, content: RecordDict, rows: Callable[[], Rows], share: Share = WHOLE) -> RecordDict:
    """Measure a model that was handed out and keep it; one that cannot be measured yet is worth having too.

    Models that are older than those to keep are deleted. Where several SuperNodes share a host, each writes the same
    model, and the one with the newest rows the evaluation.

    Args:
        node: The node's configuration.
        content: Of the message.
        rows: Reads the host's rows.
        share: Those of them that are the node's.

    Raises:
        SchemaMismatch: the message carries no model, or one that can never forecast here: that one is not kept.
        CheckpointError: the model is damaged, or cannot be written.
    """
    from icosfl.train.evaluation import save_evaluation

    handout = unpack(content, Handout)
    model = artifacts.from_bytes(unpack_model(content), "the model that was handed out")
    model.check_suits(schema_of(node.series), node.period_seconds)
    try:
        own = share.take_at(rows(), handout.cutoff_ns, model.train_fraction)
        evaluation, validation = work.measure_until(model, node, own, handout.cutoff_ns, handout.until_ns)
    except (NotReady, SchemaMismatch, Unavailable) as error:
        received = Received(node.host, model.digest, None, error.message, ())
    else:
        received = Received(node.host, model.digest, evaluation.scores, "", validation)
        if share.has_newest:
            save_evaluation(evaluation, node.models_dir)
    artifacts.save(model, node.models_dir)
    if (node.models_dir / artifacts.BEST).exists():  # it was a controller, or is one: what is handed out counts
        artifacts.point_best(model, node.models_dir)
    prune_models(node.models_dir, handout.keep)
    return pack(received)


def recheck(node: NodeConfig, content: RecordDict, rows: Callable[[], Rows], share: Share = WHOLE) -> RecordDict:
    """Measure the model that was handed out on the host's newest rows; of several SuperNodes the one that has these.

    Args:
        node: The node's configuration.
        content: Of the message.
        rows: Reads the host's rows.
        share: Those of them that are the node's.

    Raises:
        NotReady: there is no such model or no fresh row, too few came since it was made, or they are another part's.
        SchemaMismatch: the message is none, or the model can never forecast here.
        CheckpointError: the model is damaged.
    """
    from icosfl.train.evaluation import load_evaluation

    asked = unpack(content, Check)
    if not share.has_newest:
        raise NotReady("its host's newest rows are another SuperNode's, which measures the model on them")
    model = artifacts.load_served(node.models_dir)
    if model is None or model.digest != asked.digest:
        found = "no model" if model is None else f"model {model.digest[:12]}"
        raise NotReady(
            f"has {found} instead of {asked.digest[:12]}", cure="train again: a run hands its model to every node"
        )
    everything, now_ns = rows(), time.time_ns()
    stale = work.staleness(node, everything, now_ns)
    if stale:
        raise NotReady(stale)
    saved = load_evaluation(node.models_dir, model.digest)
    own = share.take(everything)
    return pack(drift.recheck(model, saved, node, own, asked.window_seconds, now_ns))


def _reply(message: Message, context: Context, answer: Callable[[NodeConfig, Share], RecordDict]) -> Message:
    host = ""
    try:
        node = load(node_config_path(), NodeConfig)
        host = node.host
        share = Share.of(context.node_config)
        host = share.name(node.host)
        content = answer(replace(node, host=host), share)
    except IcosflError as error:
        logger.warning("%s refused: %s", message.metadata.message_type, error)
        content = pack(Refused(host, error.message, error.cure))
    return Message(content, reply_to=message)


def _settings(context: Context) -> TrainSettings:
    return TrainSettings.from_run_config(context.run_config)


def _rows(node: NodeConfig) -> Rows:
    with open_store(node.store, schema_of(node.series), read_only=True) as store:
        return store.window().rows
