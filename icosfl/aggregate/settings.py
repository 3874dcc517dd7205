"""What the controller needs of a run's configuration beside what the nodes need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from icosfl.errors import ConfigError
from icosfl.train.settings import CURE, TrainSettings, duration, number, one_of, text, truth, whole

RESUME = "resume"
PURPOSE = "purpose"
TRAIN, CHECK = "train", "check"
PURPOSES = (TRAIN, CHECK)

CONSTANT, COSINE, EXPONENTIAL = "constant", "cosine", "exponential"
SCHEDULES = (CONSTANT, COSINE, EXPONENTIAL)

FEDAVG, FEDPROX, FEDADAM = "fedavg", "fedprox", "fedadam"
FEDMEDIAN, FEDTRIMMEDAVG, KRUM = "fedmedian", "fedtrimmedavg", "krum"
STRATEGIES = (FEDAVG, FEDPROX, FEDADAM, FEDMEDIAN, FEDTRIMMEDAVG, KRUM)

CLIP, REJECT = "clip", "reject"
NORM_ACTIONS = (CLIP, REJECT)

NO_RECORDS = "none"
RECORDS = (NO_RECORDS, "tensorboard", "mlflow", "wandb")

# A forecast service may be about to read the model before the newest.
LEAST_MODELS = 2

_RUN = re.compile(r"[0-9]{1,32}")


@dataclass(frozen=True, slots=True)
class RoundPolicy:
    """Who is asked in a round, when it is over, and when the run is.

    Args:
        nodes_per_round: How many updates a round takes, the first that come; 0: of all who take part.
        over_sampling: How many times as many nodes are asked, so that slow ones are not waited for; at least 1.
        quorum: Share of the nodes whose updates a round takes without whose valid ones it fails, above 0 and at most 1;
            `min_nodes` of the training settings are needed in any case.
        timeout_seconds: How long a round waits for replies.
        straggler_rounds: How many rounds in a row a node may miss before it sits out the rest of the run.
        patience: After how many measured rounds without improvement the run ends early; 0: never.
        min_improvement: By how much the fleet's validation skill must grow to count as improved, at least 0.
        schedule: How the learning rate goes from the first round's to `learning_rate_end` in the last.
        learning_rate_end: Above 0; without a part in the schedule `constant`.
    """

    nodes_per_round: int
    over_sampling: float
    quorum: float
    timeout_seconds: float
    straggler_rounds: int
    patience: int
    min_improvement: float
    schedule: str
    learning_rate_end: float


@dataclass(frozen=True, slots=True)
class CombineSettings:
    """What is made of the valid updates of a round.

    Args:
        strategy: One of `STRATEGIES`.
        proximal_mu: Of fedprox, above 0.
        server_learning_rate: Of fedadam, above 0.
        trimmed_share: Of fedtrimmedavg: share of the values left out at either end, above 0 and below 0.5.
        malicious_nodes: Of krum: how many nodes may send anything, at least 0.
        norm_factor: How many times the round's median distance from its model an update may be away; 0: any.
        norm_action: Whether one beyond that is brought nearer (clip) or left out (reject).
        noise_multiplier: Of differential privacy: the noise in terms of the clipping norm; 0: none.
        clipping_norm: How far from the round's model an update may be under differential privacy, above 0.
        privacy_delta: The δ for which ε is told, between 0 and 1.
    """

    strategy: str
    proximal_mu: float
    server_learning_rate: float
    trimmed_share: float
    malicious_nodes: int
    norm_factor: float
    norm_action: str
    noise_multiplier: float
    clipping_norm: float
    privacy_delta: float


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run goes.

    Args:
        train: How it learns, as the nodes read it too.
        policy: How its rounds go.
        combine: What is made of the updates.
        warm_start: Whether it goes on from the model before.
        query_timeout_seconds: How long nodes have to say whether they take part; those that do not are left out.
        keep_models: How many models, and runs on the controller, each host keeps; at least 2.
        records: Where rounds are recorded besides, one of `RECORDS`.
        purpose: `TRAIN` or `CHECK`.
        resume: The run that it goes on with; "": none.
        check_window_seconds: How far back a check looks, at most.
    """

    train: TrainSettings
    policy: RoundPolicy
    combine: CombineSettings
    warm_start: bool
    query_timeout_seconds: float
    keep_models: int
    records: str
    purpose: str
    resume: str
    check_window_seconds: float

    @classmethod
    def from_run_config(cls, config: Mapping[str, object]) -> Self:
        """Check a run configuration.

        Raises:
            ConfigError: a key is missing or its value is not usable; the message names the key.
        """
        resume = text(config, RESUME)
        if resume and not _RUN.fullmatch(resume):
            raise ConfigError(f"{RESUME}: must be the number of a run, not {resume!r}", cure=CURE)
        return cls(
            train=TrainSettings.from_run_config(config),
            policy=_policy(config),
            combine=_combine(config),
            warm_start=truth(config, "warm-start"),
            query_timeout_seconds=number(config, "query-timeout-seconds", above=0),
            keep_models=whole(config, "keep-models", LEAST_MODELS),
            records=one_of(config, "experiment-records", RECORDS),
            purpose=one_of(config, PURPOSE, PURPOSES),
            resume=resume,
            check_window_seconds=duration(config, "check-window"),
        )


def resumed_run(config: Mapping[str, object]) -> str:
    """The run that a run configuration goes on with; "" for none, and for what is no number of a run."""
    resume = config.get(RESUME)
    return resume if isinstance(resume, str) and _RUN.fullmatch(resume) else ""


def _policy(config: Mapping[str, object]) -> RoundPolicy:
    return RoundPolicy(
        nodes_per_round=whole(config, "nodes-per-round", 0),
        over_sampling=number(config, "over-sampling", least=1),
        quorum=number(config, "quorum", above=0, most=1),
        timeout_seconds=number(config, "round-timeout-seconds", above=0),
        straggler_rounds=whole(config, "straggler-rounds", 0),
        patience=whole(config, "patience", 0),
        min_improvement=number(config, "min-improvement", least=0),
        schedule=one_of(config, "learning-rate-schedule", SCHEDULES),
        learning_rate_end=number(config, "learning-rate-end", above=0, most=1),
    )


def _combine(config: Mapping[str, object]) -> CombineSettings:
    return CombineSettings(
        strategy=one_of(config, "strategy", STRATEGIES),
        proximal_mu=number(config, "proximal-mu", above=0),
        server_learning_rate=number(config, "server-learning-rate", above=0),
        trimmed_share=number(config, "trimmed-share", above=0, below=0.5),
        malicious_nodes=whole(config, "malicious-nodes", 0),
        norm_factor=number(config, "norm-factor", least=0),
        norm_action=one_of(config, "norm-action", NORM_ACTIONS),
        noise_multiplier=number(config, "noise-multiplier", least=0),
        clipping_norm=number(config, "clipping-norm", above=0),
        privacy_delta=number(config, "privacy-delta", above=0, below=1),
    )
