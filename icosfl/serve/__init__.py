"""From the global model and a node's newest rows to forecasts, over HTTP and as Prometheus series.

Rows come from the node's store, models from the directory that the federated run hands them out to.
"""
