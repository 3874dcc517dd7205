"""A ClientApp one of whose nodes lies: it trains as it should, and sends something else.

It is copied into a copy of the app, for tests and for the benchmark of poisoned rounds; the run configuration says who
lies, and how in which round.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from icosfl.config import NodeConfig, load, node_config_path
from icosfl.train import client_app
from icosfl.train.messages import CHECK, Arrays, Refused, Task
from icosfl.train.records import ARRAYS, array_record, unpack, unpack_arrays, unpack_update

HONEST, NAN, HUGE, FLIPPED, SCALED, FLIPPED_SCALED, LAZY = (
    "honest",
    "nan",
    "huge",
    "flipped",
    "scaled",
    "flipped-scaled",
    "lazy",
)

# By how much the update is multiplied.
FACTORS = {FLIPPED: -1.0, SCALED: 10.0, FLIPPED_SCALED: -10.0, LAZY: 0.0}

# A number as float32 still has them, and as no training gives them.
LARGE = 1e30

POISON = "poison"
POISONED_HOST = "poisoned-host"

app = ClientApp()
app.query()(client_app.query)
app.query(CHECK)(client_app.check)
app.evaluate()(client_app.evaluate)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train as any node, and lie about the outcome if this is the poisoned one."""
    before, task = unpack_arrays(message.content), unpack(message.content, Task)
    reply = client_app.train(message, context)
    update = unpack_update(reply.content)
    if load(node_config_path(), NodeConfig).host != context.run_config[POISONED_HOST] or isinstance(update, Refused):
        return reply
    ways = str(context.run_config[POISON]).split(",")
    way = ways[min(task.round, len(ways)) - 1]
    reply.content[ARRAYS] = array_record(poisoned(way, before, update.arrays))
    return reply


def poisoned(way: str, before: Arrays, after: Arrays) -> Arrays:
    """What a node sends instead of the arrays that it trained.

    Args:
        way: Of lying.
        before: The arrays that the round began with.
        after: What honest training made of them.
    """
    if way == HONEST:
        return after
    if way in {NAN, HUGE}:
        lie = np.float32(np.nan if way == NAN else LARGE)
        return [np.full_like(array, lie) for array in after]
    # Linear parts whose weights sum to 1 give one whose weights do: no guard sees the lie.
    return [
        (old + FACTORS[way] * (new.astype(np.float64) - old)).astype(np.float32)
        for old, new in zip(before, after, strict=True)
    ]
