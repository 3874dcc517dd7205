"""What a node does for a run: values and rows in, values out.

Flower and stores stay outside. Importing this does not import torch: what a query needs goes without.
"""

from __future__ import annotations

from dataclasses import dataclass

from icosfl.config import NodeConfig, schema_of
from icosfl.errors import NotReady, SchemaMismatch
from icosfl.schema import Rows, Schema
from icosfl.train.artifact import Artifact, now_utc
from icosfl.train.baselines import Baselines
from icosfl.train.evaluation import Evaluation
from icosfl.train.linear import fit_blend, fit_common
from icosfl.train.local import Plan, cut, cutoff_of, prepare, survey
from icosfl.train.messages import Arrays, Question, Standing, Task, Trained, Update
from icosfl.train.scores import evaluate
from icosfl.train.settings import TrainSettings
from icosfl.train.shape import ModelShape


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


def stand(job: Job, rows: Rows) -> Standing:
    """Say what the node can bring to a run."""
    found = survey(rows, job.schema, job.plan, job.settings)
    return Standing(
        host=job.node.host,
        rows=found.rows,
        newest=found.newest,
        cutoff_ns=found.cutoff_ns,
        train_windows=found.train_windows,
        series=found.present,
        reason=found.reason or "",
    )


def train(job: Job, rows: Rows, task: Task, arrays: Arrays) -> Update:
    """Train the arrays on the rows up to the task's cutoff.

    Raises:
        NotReady: there are too few rows by now.
        SchemaMismatch: the arrays are not those of the run's model.
        RunFailed: training diverged.
    """
    from icosfl.train.loop import fit
    from icosfl.train.model import build, load_arrays, take_common, to_arrays

    settings = job.settings
    windows = prepare(rows, job.schema, job.plan, settings, task.cutoff_ns)
    model = build(job.shape, settings.seed)
    load_arrays(model, arrays)
    take_common(model, fit_common(windows))
    report = fit(
        model,
        windows,
        fit_blend(windows),
        epochs=settings.local_epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        seed=settings.seed + task.round,
    )
    trained = Trained(job.node.host, task.version, report.loss, report.seconds, ())
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
    scores = evaluate(model, linear, baselines, prepared.schema, prepared.train, prepared.held_out)
    return Evaluation(artifact.digest, now_utc(), cutoff, scores, baselines, linear)
