"""The controller's side of a run, as Flower calls it."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from icosfl.aggregate.run import federate
from icosfl.config import NodeConfig, load, node_config_path

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run it; an exception is how Flower is told that a run failed."""
    federate(grid, str(context.run_id), load(node_config_path(), NodeConfig), context.run_config)
