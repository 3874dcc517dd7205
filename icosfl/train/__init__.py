"""train: arrays → a node's local model. Windows come from process; updates go to aggregate, artifacts to serve.

Importing this package does not import torch: what a node answers to a query runs without it. `model`, `loop` and
`scores` need torch and are imported by name.
"""

from icosfl.train.artifact import Artifact
from icosfl.train.local import Plan, Prepared, Survey, prepare, survey
from icosfl.train.settings import TrainSettings

__all__ = ["Artifact", "Plan", "Prepared", "Survey", "TrainSettings", "prepare", "survey"]
