"""Small fleets as values, for tests of what looks at a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icosfl.config import Endpoint, NodeConfig, SeriesConfig, StoreConfig
from icosfl.fleet.inventory import Fleet, Host

SERIES = (SeriesConfig("cpu_usage", "%"), SeriesConfig("memory_usage", "MiBy"), SeriesConfig("power", "W"))


def make_host(name: str, root: Path, **changes: Any) -> Host:
    """A host of this machine whose store is in this process's memory."""
    store = StoreConfig("memory", "timeseries", 1000, 5.0, Endpoint("127.0.0.1", 1), "admin", "admin", "admin")
    node = NodeConfig(name, 1.0, 3.0, 30.0, root / "models", root / "runs", store, SERIES)
    values: dict[str, Any] = {
        "name": name,
        "groups": ("workers", "all"),
        "connection": "local",
        "address": "127.0.0.1",
        "listen": "127.0.0.1",
        "otlp_listen": "",
        "supernodes": 1,
        "slot": 0,
        "runtime": "supervisor",
        "ports": {"forecast": 1, "otlp": 2, "otlp_remote": 3},
        "paths": {"root": root / name, "log": root / name / "log"},
        "training": {"window": "4s", "horizons": "next,2s", "min-windows": 4, "series": "cpu_usage,memory_usage"},
        "node": node,
        "required_disk_mb": 1,
        "required_memory_mb": 1,
        "redis_binary": Path("/bin/true"),
        "python_source": "project",
        "bundles_dir": root / "bundles",
        "images_dir": root / "images",
        "release_extras": (),
        "pki_dir": root / "pki",
        "certificate_days": 30.0,
    }
    return Host(**{**values, **changes})


def make_fleet(project: Path, *hosts: Host) -> Fleet:
    """A fleet of these hosts, whose project has this repository's run configuration."""
    return Fleet(project, project / "inventories" / "lab", hosts)
