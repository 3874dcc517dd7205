"""The ServerApp: Flower's FedAvg by its own loop, which writes down when it sent and when it had what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from tiny_rounds.model import build, unload

app = ServerApp()


class Observed(FedAvg):
    """FedAvg that notes when it sends and when it has all replies.

    Args:
        record: The file for it, a line of JSON each.
        arguments: FedAvg's.
    """

    def __init__(self, record: Path, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._record = record

    def note(self, what: str, number: int, replies: Iterable[Message] = (), **more: int) -> None:
        """Write a line."""
        marks = [dict(reply.content["metrics"]) for reply in replies if reply.has_content()]
        line = json.dumps({"what": what, "round": number, "time": time.time(), "replies": marks, **more})
        with self._record.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model to train."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.note("train", server_round)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the replies."""
        came = list(replies)
        self.note("trained", server_round, came)
        return super().aggregate_train(server_round, came)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model to measure."""
        messages = list(super().configure_evaluate(server_round, arrays, config, grid))
        self.note("evaluate", server_round)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Take what was measured."""
        came = list(replies)
        self.note("evaluated", server_round, came)
        return super().aggregate_evaluate(server_round, came)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    config = context.run_config
    nodes = int(config["nodes"])
    strategy = Observed(
        Path(str(config["record"])),
        fraction_evaluate=1.0 if config["evaluate"] else 0.0,
        min_train_nodes=nodes,
        min_evaluate_nodes=nodes if config["evaluate"] else 0,
        min_available_nodes=nodes,
    )
    if config["bounded-grid"]:
        from icosfl.aggregate.grid import BoundedGrid

        grid = BoundedGrid(grid)
    strategy.note("begun", 0)
    # who is there, as icosfl asks before a run: on all sides, and no part of a round
    asked = [Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()]
    there = len(list(grid.send_and_receive(asked, timeout=120.0)))
    strategy.note("there", 0, nodes=there)
    strategy.start(grid, ArrayRecord(unload(build())), num_rounds=int(config["rounds"]), timeout=600.0)
    strategy.note("finished", 0)
