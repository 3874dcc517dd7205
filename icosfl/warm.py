"""Loads all that a node's services load: `python -m icosfl.warm`.

The installer of a release runs it once, as the only one who may write there: what cannot be loaded on this host is
found before the release counts, and each module's bytecode is on disk for services, which cannot write it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import distribution
from pkgutil import iter_modules

# What the interpreter borrows from the host's own libraries.
HOST = ("bz2", "ctypes", "hashlib", "lzma", "sqlite3", "ssl", "uuid", "zlib")
PROGRAMS = ("dataclay", "flwr", "supervisor", "uvicorn")
STAGES = ("collect", "bridge", "store", "process", "train", "aggregate", "serve", "fleet")
OPERATOR = {"ansible", "ansible_runner"}  # a node has none of them


def load() -> None:
    """Load everything; whatever cannot be loaded is an `ImportError`."""
    for name in HOST:
        importlib.import_module(name)
    for program in PROGRAMS:
        for entry in distribution(program).entry_points.select(group="console_scripts"):
            entry.load()
    for stage in STAGES:
        for module in iter_modules(importlib.import_module(f"icosfl.{stage}").__path__):
            if module.name != "__main__":
                _load(f"icosfl.{stage}.{module.name}")
    _train()
    _draw()


def _load(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPERATOR:
            raise


def _train() -> None:
    import numpy as np

    from icosfl.process import Windows
    from icosfl.train.linear import fit_blend
    from icosfl.train.loop import fit
    from icosfl.train.model import ModelShape, build

    # torch loads some of itself only when it is used
    steps = np.arange(12.0)
    windows = Windows(steps.reshape(3, 4, 1), np.ones((3, 1, 1)), np.arange(3), (1,), 1)
    model = build(ModelShape("lstm", 1, 1, 4, 4, 1), 1)
    fit(model, windows, fit_blend(windows), epochs=1, learning_rate=0.1, batch_size=2, seed=1)


def _draw() -> None:
    from icosfl.aggregate.progress import RoundDone
    from icosfl.aggregate.report_picture import draw, stack
    from icosfl.aggregate.report_story import story

    done = RoundDone("2026-01-01T00:00:00+00:00", 1, 1, ("host",), (), 1.0, 1, 1.0, "", {}, {"host": 0.5}, 0.5)
    stack("", draw(story([done], {}), (), ()))
    importlib.import_module("tensorboardX")


if __name__ == "__main__":
    load()
