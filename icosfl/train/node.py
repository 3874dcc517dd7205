"""What a node does for a run: values and rows in, values out.

Flower and stores stay outside. Importing this does not import torch: what a query needs goes without.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from icosfl.config import NodeConfig, schema_of
from icosfl.errors import NotReady, SchemaMismatch
from icosfl.process.clean import NANOSECONDS
from icosfl.schema import Rows, Schema
from icosfl.train.artifact import Artifact, now_utc
from icosfl.train.baselines import Baselines
from icosfl.train.evaluation import Evaluation
from icosfl.train.linear import fit_blend, fit_common
from icosfl.train.local import Plan, cut, cutoff_of, prepare, survey
from icosfl.train.messages import Arrays, Level, Question, Standing, Task, Trained, Update
from icosfl.train.scores import score
from icosfl.train.settings import TrainSettings
from icosfl.train.shape import ModelShape
from icosfl.train.validation import levels, validation_part


@dataclass(frozen=True, slots=True)
class Job:
    """What a run's settings and its question mean on this node.

    Raises:
        SchemaMismatch: the node lacks a series, has it in another unit, or samples at another period.
        ConfigError: window or horizons do not suit the period.
    """

    node: NodeConfig
    settings: TrainSettings
    question: Question

    def __post_init__(self) -> None:
        if self.question.period_seconds != self.node.period_seconds:
            raise SchemaMismatch(
                f"{self.node.host} samples every {self.node.period_seconds:g} s, the controller every "
                f"{self.question.period_seconds:g} s",
                cure="deploy the whole fleet from one inventory: site.yml",
            )
        for asked, own in zip(self.question.series, self.schema.select(self.names).series, strict=True):
            if asked.unit != own.unit:
                raise SchemaMismatch(
                    f"{self.node.host} keeps {own.name} in {own.unit!r}, the controller in {asked.unit!r}",
                    cure="deploy the whole fleet from one inventory: site.yml",
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The series of the run."""
        return tuple(series.name for series in self.question.series)

    @property
    def schema(self) -> Schema:
        """The series of the node's store."""
        return schema_of(self.node.series)

    @property
    def plan(self) -> Plan:
        """How the model looks at rows."""
        return Plan.of(self.settings, self.names, self.node.period_seconds, self.node.max_gap_seconds)

    @property
    def shape(self) -> ModelShape:
        """The shape of the run's model."""
        return shape_of(self.settings, self.plan)


def shape_of(settings: TrainSettings, plan: Plan) -> ModelShape:
    """The shape of the model that these settings ask for."""
    return ModelShape(
        settings.network, len(plan.names), len(plan.horizons), plan.window, settings.hidden_size, settings.num_layers
    )


def staleness(node: NodeConfig, rows: Rows, now_ns: int) -> str:
    """Why the newest of a host's rows is too old, or too far ahead, to learn anything of now from; "" when it is not.

    Args:
        node: Says how old it may be; as far ahead it may be too, as for the forecast service.
        rows: All rows of the host, also where several SuperNodes share them: old ones are the older parts' lot.
        now_ns: Nanoseconds since the epoch.
    """
    age = 0.0 if len(rows) == 0 else (now_ns - int(rows.times[-1])) / NANOSECONDS
    if abs(age) <= node.stale_after_seconds:
        return ""
    if age < 0:
        return f"its newest row is {-age:.0f} s in the future: set the clock of {node.host}, or of what sent the rows"
    return (
        f"its newest row is {age:.0f} s old, more than {node.stale_after_seconds:g} s: see whether host_metrics and "
        "otlp_bridge run there"
    )


def stand(job: Job, rows: Rows, stale: str = "") -> Standing:
    """Say what the node can bring to a run; it cannot take part when its rows are `stale` (see `staleness`)."""
    found = survey(rows, job.schema, job.plan, job.settings)
    return Standing(
        host=job.node.host,
        rows=found.rows,
        newest=found.newest,
        cutoff_ns=found.cutoff_ns,
        train_windows=found.train_windows,
        series=found.present,
        reason="; ".join(reason for reason in (stale, found.reason) if reason),
    )


def train(job: Job, rows: Rows, task: Task, arrays: Arrays) -> Update:
    """Measure the arrays as they came on the rows after the task's cutoff, then train them on those up to it.

    Raises:
        NotReady: there are too few rows by now.
        SchemaMismatch: the arrays are not those of the run's model.
        RunFailed: training diverged.
    """
    from icosfl.train.loop import fit, predict
    from icosfl.train.model import build, load_arrays, take_common, to_arrays

    started = time.monotonic()
    settings = job.settings
    prepared = prepare(rows, job.schema, job.plan, settings, task.cutoff_ns, task.until_ns)
    model = build(job.shape, settings.seed)
    load_arrays(model, arrays)
    windows, linear = prepared.train, fit_blend(prepared.train)
    measured = prepared.held_out.pick(validation_part(prepared.held_out, task.until_ns))
    validation = levels(prepared.schema, measured, predict(model, linear, measured.inputs, measured.last_times))
    del prepared, measured  # before the windows to train on are looked at: memory
    take_common(model, fit_common(windows))
    report = fit(
        model,
        windows,
        linear,
        epochs=settings.local_epochs,
        learning_rate=task.learning_rate,
        batch_size=settings.batch_size,
        seed=settings.seed + task.round,
        proximal_mu=task.proximal_mu,
    )
    trained = Trained(job.node.host, task.version, report.loss, time.monotonic() - started, validation)
    return Update(trained, list(to_arrays(model)), report.examples)


def measure(artifact: Artifact, node: NodeConfig, rows: Rows, cutoff_ns: int | None) -> Evaluation:
    """Measure a model on rows after the cutoff, beside baselines fitted to those before it.

    Args:
        artifact: The model.
        node: Whose rows these are.
        rows: All rows of the node's store.
        cutoff_ns: Nanoseconds since the epoch; None: where the model's train fraction puts it.

    Raises:
        NotReady: there is no window on one side of the cutoff.
        SchemaMismatch: the node lacks a series of the model.
    """
    return measure_until(artifact, node, rows, cutoff_ns, None)[0]


def measure_until(
    artifact: Artifact, node: NodeConfig, rows: Rows, cutoff_ns: int | None, until_ns: int | None
) -> tuple[Evaluation, tuple[Level, ...]]:
    """Measure a model as `measure` does, and as a run's rounds did: by the validation rows up to `until_ns`.

    Args:
        artifact: The model.
        node: Whose rows these are.
        rows: All rows of the node's store.
        cutoff_ns: As in `measure`.
        until_ns: As in `icosfl.train.validation.validation_part`.

    Raises:
        NotReady: there is no window on one side of the cutoff.
        SchemaMismatch: the node lacks a series of the model.
    """
    from icosfl.train.loop import predict
    from icosfl.train.model import build, load_arrays

    plan = artifact.plan(node.max_gap_seconds)
    cutoff = cutoff_of(rows, artifact.train_fraction) if cutoff_ns is None else cutoff_ns
    prepared = cut(rows, schema_of(node.series), plan, cutoff)
    if len(prepared.train) == 0 or len(prepared.held_out) == 0:
        raise NotReady(
            f"{len(rows)} rows give {len(prepared.train)} windows up to the cutoff and {len(prepared.held_out)} "
            "after it; both parts need at least one"
        )
    model = build(artifact.shape, seed=0)
    load_arrays(model, artifact.arrays)
    linear, baselines = fit_blend(prepared.train), Baselines.fit(prepared.train)
    held_out = prepared.held_out
    quantiles = predict(model, linear, held_out.inputs, held_out.last_times)
    simple = baselines.predict(held_out.inputs, held_out.seasonal)
    scores = score(prepared.schema, prepared.train, held_out, quantiles, simple)
    part = validation_part(held_out, until_ns)
    validation = levels(prepared.schema, held_out.pick(part), quantiles[part])
    return Evaluation(artifact.digest, now_utc(), cutoff, scores, baselines, linear), validation
