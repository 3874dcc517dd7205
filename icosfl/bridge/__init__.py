"""OTLP/gRPC in, rows of the store out: what a host's collector pushes is acknowledged once it is on disk."""

from icosfl.bridge.reasons import Reason
from icosfl.bridge.server import Bridge

__all__ = ["Bridge", "Reason"]
