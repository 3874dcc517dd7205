"""A whole fleet in one process: the ServerApp's side as it is, the nodes' side as functions behind a fake grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, RecordDict

from icosfl.aggregate import run as runs
from icosfl.aggregate.progress import read_progress
from icosfl.schema import Rows
from icosfl.train import client_app, node
from icosfl.train.artifact import Artifact, from_bytes, load_best, load_latest
from icosfl.train.messages import Level, Received, Task, Update
from icosfl.train.records import pack, pack_update, unpack, unpack_arrays, unpack_model, unpack_update
from icosfl.train.settings import TrainSettings
from icosfl.train.share import WHOLE, Share
from support import made_up
from support.fake_grid import FakeGrid

MessageChange = Callable[[Message, RecordDict], RecordDict | Error | None]


@dataclass
class Worker:
    """A node: its ClientApp as it is, on rows in memory; `change` may spoil a reply."""

    directory: Path
    host: str
    rows: Rows
    change: MessageChange = field(default=lambda _, content: content)
    run_config: dict[str, Any] = field(default_factory=lambda: dict(made_up.RUN_CONFIG))
    share: Share = WHOLE

    def __call__(self, message: Message) -> RecordDict | Error | None:
        own = made_up.node_config(self.directory, self.host)
        config = replace(own, host=self.share.name(self.host))
        settings = TrainSettings.from_run_config(self.run_config)
        kind = message.metadata.message_type
        if kind == "query":
            content = pack(node.stand(node.Job(config, settings, made_up.QUESTION), self.share.take(self.rows)))
        elif kind == "train":
            task = unpack(message.content, Task)
            job = node.Job(config, settings, task.question)
            rows = self.share.take_at(self.rows, task.cutoff_ns, settings.train_fraction)
            content = pack_update(node.train(job, rows, task, unpack_arrays(message.content)))
        else:
            content = client_app.receive(config, message.content, lambda: self.rows, self.share)
        return self.change(message, content)


@dataclass
class Controller:
    """A controller's directory, its rows, and the nodes that it sees."""

    directory: Path
    nodes: dict[int, Worker]
    grid: FakeGrid

    def run(self, run: str, **changes: Any) -> Artifact:
        config = made_up.RUN_CONFIG | {key.replace("_", "-"): value for key, value in changes.items()}
        for worker in self.nodes.values():
            worker.run_config = config
        runs.federate(self.grid, run, made_up.node_config(self.directory, "controller"), config)
        artifact = load_best(self.directory / "controller" / "models")
        assert artifact is not None
        return artifact

    def events(self, run: str) -> list[Any]:
        return list(read_progress(self.directory / "controller" / "runs" / run))

    def result(self, run: str) -> dict[str, Any]:
        path = self.directory / "controller" / "runs" / run / "result.json"
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def latest(self, host: str) -> Artifact | None:
        return load_latest(self.directory / host / "models")


def update_in(content: RecordDict) -> Update:
    """The update in a reply."""
    update = unpack_update(content)
    assert isinstance(update, Update)
    return update


def spoil_training(spoil: Callable[[Update], object]) -> MessageChange:
    """Lets a node send an update that `spoil` changed."""

    def change(message: Message, content: RecordDict) -> RecordDict:
        if message.metadata.message_type != "train":
            return content
        update = update_in(content)
        spoilt = replace(update, arrays=[array.copy() for array in update.arrays])
        spoil(spoilt)
        return pack_update(spoilt)

    return change


def claim_skill(skill: Callable[[int], float | None]) -> MessageChange:
    """Lets a node measure what a test wants, of the model of a round (or the one that is handed out)."""

    def levels(wanted: float | None) -> tuple[Level, ...]:
        return () if wanted is None else (Level("cpu_usage", 1, 10, 1 - wanted, 1.0),)

    def change(message: Message, content: RecordDict) -> RecordDict:
        kind = message.metadata.message_type
        if kind == "train":
            update = update_in(content)
            wanted = levels(skill(unpack(message.content, Task).round - 1))
            return pack_update(replace(update, trained=replace(update.trained, validation=wanted)))
        if kind == "evaluate":
            model = from_bytes(unpack_model(message.content), "the test's")
            return pack(replace(unpack(content, Received), validation=levels(skill(model.round))))
        return content

    return change
