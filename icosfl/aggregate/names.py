"""Which host a SuperNode is: Flower knows numbers, and one that never answered cannot say its name itself.

Whoever submits a run knows both, and writes them down beside the runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from icosfl.train.files import write_atomically

NAMES_FILE = "nodes.json"

logger = logging.getLogger(__name__)


def read_names(runs_dir: Path) -> dict[int, str]:
    """The hosts of SuperNodes, by Flower's numbers of them; what cannot be read is logged, for no run fails of it.

    Args:
        runs_dir: Where runs have their directories.
    """
    path = runs_dir / NAMES_FILE
    try:
        found = json.loads(path.read_bytes())
        return {int(number): str(host) for number, host in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s: cannot be read, so nodes that do not answer have numbers only: %s", path, error)
        return {}


def write_names(runs_dir: Path, names: Mapping[int, str]) -> None:
    """Note the hosts of SuperNodes, by Flower's numbers of them; a reader finds the old ones or the new ones.

    Args:
        runs_dir: Where runs have their directories.
        names: The hosts.

    Raises:
        CheckpointError: the file cannot be written.
    """
    written = {str(number): host for number, host in sorted(names.items())}
    write_atomically(runs_dir / NAMES_FILE, json.dumps(written, indent=1).encode())


def may_be(known: str, said: str) -> bool:
    """Whether a SuperNode that was registered under `known` may call itself `said`.

    The first of several SuperNodes of a host was registered under the host's name, and says which part it is.
    """
    return said in {known, f"{known}/1"}
