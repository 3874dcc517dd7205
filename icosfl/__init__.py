"""Federated learning of a fleet's own resource use: collect, keep, train, serve, and the tools that deploy it."""

__version__ = "0.1.0"
