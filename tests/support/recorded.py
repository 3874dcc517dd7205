"""Reads what runs recorded with the stores' own readers: by name, round and value (to six digits) of each point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Points = dict[str, list[tuple[int, float]]]


def by_tensorboard(runs: Path, run: str) -> Points:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(runs / run / "tensorboard"))
    read.Reload()
    names = read.Tags()["scalars"]
    return {name: [(each.step, round(each.value, 6)) for each in read.Scalars(name)] for name in names}


def mlflow_run(runs: Path, run: str) -> tuple[Any, Any]:
    """MLflow's client, and the only run of this name."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/experiments/mlflow.db")
    experiment = client.get_experiment_by_name("icosfl")
    (found,) = [each for each in client.search_runs([experiment.experiment_id]) if each.info.run_name == run]
    return client, found


def by_mlflow(runs: Path, run: str) -> Points:
    """What MLflow would show."""
    client, found = mlflow_run(runs, run)
    history = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    return {name: sorted((each.step, round(each.value, 6)) for each in points) for name, points in history.items()}


def by_wandb(runs: Path, run: str) -> Points:
    """What wandb would send to its server."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    points: Points = {}
    (path,) = (runs / run / "wandb").glob("offline-run-*/*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in values.items():
            if name != "round" and not name.startswith("_"):
                points.setdefault(name, []).append((values["round"], round(value, 6)))
    store.close()
    return points


READERS: dict[str, Callable[[Path, str], Points]] = {
    "tensorboard": by_tensorboard,
    "mlflow": by_mlflow,
    "wandb": by_wandb,
}
