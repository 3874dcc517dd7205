"""From a host to measured points: sampled here, scraped from another exporter, both, or replayed from a recorded trace.

The points leave as a Prometheus page and as OTLP/gRPC requests to the bridge.
"""

from icosfl.collect.points import Batch, Kind, Point

__all__ = ["Batch", "Kind", "Point"]
