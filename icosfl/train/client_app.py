"""The node's side of a run, as Flower calls it: each message is a process of its own, so what is imported counts.

Every error of ours becomes a reply that says who refuses and why; Flower's own error replies would lose that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from icosfl.config import NodeConfig, load, node_config_path, schema_of
from icosfl.errors import IcosflError, NotReady, SchemaMismatch, Unavailable
from icosfl.schema import Rows
from icosfl.store import open_store
from icosfl.train import artifact as artifacts
from icosfl.train import node as work
from icosfl.train.messages import Handout, Question, Received, Refused, Task
from icosfl.train.prune import prune_models
from icosfl.train.records import pack, pack_update, unpack, unpack_arrays, unpack_model
from icosfl.train.settings import TrainSettings

logger = logging.getLogger(__name__)

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say whether this node can take part in a run, and what it brings."""

    def answer(node: NodeConfig) -> RecordDict:
        job = work.Job(node, _settings(context), unpack(message.content, Question))
        return pack(work.stand(job, _rows(node)))

    return _reply(message, answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on this node's rows."""

    def answer(node: NodeConfig) -> RecordDict:
        task = unpack(message.content, Task)
        job = work.Job(node, _settings(context), task.question)
        return pack_update(work.train(job, _rows(node), task, unpack_arrays(message.content)))

    return _reply(message, answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001 (Flower's signature)
    """Keep the model that the run made, and measure it on this node's rows."""
    return _reply(message, lambda node: receive(node, message.content, lambda: _rows(node)))


def receive(node: NodeConfig, content: RecordDict, rows: Callable[[], Rows]) -> RecordDict:
    """Measure a model that was handed out and keep it; one that cannot be measured yet is worth having too.

    Models that are older than those to keep are deleted.

    Args:
        node: The node's configuration.
        content: Of the message.
        rows: Reads the node's rows.

    Raises:
        SchemaMismatch: the message carries no model, or one that can never forecast here: that one is not kept.
        CheckpointError: the model is damaged, or cannot be written.
    """
    from icosfl.train.evaluation import save_evaluation

    handout = unpack(content, Handout)
    model = artifacts.from_bytes(unpack_model(content), "the model that was handed out")
    model.check_suits(schema_of(node.series), node.period_seconds)
    try:
        evaluation = work.measure(model, node, rows(), handout.cutoff_ns)
    except (NotReady, SchemaMismatch, Unavailable) as error:
        received = Received(node.host, model.digest, None, error.message)
    else:
        received = Received(node.host, model.digest, evaluation.scores.to_dict(), "")
        save_evaluation(evaluation, node.models_dir)
    artifacts.save(model, node.models_dir)
    prune_models(node.models_dir, handout.keep)
    return pack(received)


def _reply(message: Message, answer: Callable[[NodeConfig], RecordDict]) -> Message:
    host = ""
    try:
        node = load(node_config_path(), NodeConfig)
        host = node.host
        content = answer(node)
    except IcosflError as error:
        logger.warning("%s refused: %s", message.metadata.message_type, error)
        content = pack(Refused(host, error.message, error.cure))
    return Message(content, reply_to=message)


def _settings(context: Context) -> TrainSettings:
    return TrainSettings.from_run_config(context.run_config)


def _rows(node: NodeConfig) -> Rows:
    with open_store(node.store, schema_of(node.series)) as store:
        return store.window().rows
