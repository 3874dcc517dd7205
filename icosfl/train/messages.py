"""What the ServerApp and the nodes say to each other, as values: checked when they are read, plain JSON on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from icosfl.config import SeriesConfig
from icosfl.train.scores import LARGEST_ERROR, Scores

# Of a question about the model, beside the one whether a node can take part: `query.check` is a message's type.
CHECK = "check"

Arrays = list[NDArray[Any]]

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

LONGEST_NAME = 300
LONGEST_REASON = 2000


def printable(text: str) -> str:
    """The text on one line, control characters escaped: it may come from a hostile node and go to a terminal."""
    return "".join(
        sign if sign.isprintable() else " " if sign in "\n\t" else sign.encode("unicode_escape").decode()
        for sign in text
    )


def _told(text: str) -> str:
    return printable(text[:LONGEST_REASON])[:LONGEST_REASON]


_Name = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(printable)]
_Reason = Annotated[str, AfterValidator(_told)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Time = Annotated[int, Field(ge=0, lt=2**63)]


@checked(frozen=True, config=_STRICT)
class Question:
    """Can you take part? Asks for these series, in the controller's units, sampled every `period_seconds`."""

    series: tuple[SeriesConfig, ...]
    period_seconds: float


@checked(frozen=True, config=_STRICT)
class Standing:
    """What a node can bring to a run.

    Args:
        host: Its name.
        rows: Rows in its store.
        newest: Time of the newest row, nanoseconds since the epoch; None without rows.
        cutoff_ns: Up to this time its rows are trained on; None without rows.
        train_windows: Windows to train on.
        series: Names of the series that it has.
        reason: Why it cannot take part; "" when it can.
    """

    host: _Name
    rows: _Count
    newest: _Time | None
    cutoff_ns: _Time | None
    train_windows: _Count
    series: Annotated[tuple[_Name, ...], Field(max_length=10_000)]
    reason: _Reason


@checked(frozen=True, config=_STRICT)
class Task:
    """Measure the arrays that come with this as they are, then train them.

    Args:
        version: Names the arrays; the reply repeats it.
        round: Which of the run, from 1; each has its own order of windows.
        question: The series and the period, as at first.
        cutoff_ns: Of the node that this goes to: it trains on rows up to then.
        until_ns: The arrays are measured on rows from the cutoff up to then, the same in each round.
        learning_rate: Of this round.
        proximal_mu: Of FedProx's proximal term, 0: none.
    """

    version: _Name
    round: int
    question: Question
    cutoff_ns: int
    until_ns: int
    learning_rate: float
    proximal_mu: float = 0.0


@checked(frozen=True, config=_STRICT)
class Level:
    """How good arrays are at one series and one horizon, on a node's validation rows.

    Args:
        series: Its name.
        horizon_steps: How far ahead, in rows.
        count: Points measured, at least 1.
        rmse: Root mean squared error of the median forecast, above the node's own linear part; in the series' unit.
        persistence: The same of persistence, on the same points.
    """

    series: _Name
    horizon_steps: Annotated[int, Field(ge=1, le=2**53)]
    count: Annotated[int, Field(ge=1, le=2**53)]
    rmse: Annotated[float, Field(ge=0, le=LARGEST_ERROR)]
    persistence: Annotated[float, Field(ge=0, le=LARGEST_ERROR)]


_Levels = Annotated[tuple[Level, ...], Field(max_length=100_000)]


@checked(frozen=True, config=_STRICT)
class Trained:
    """The arrays that come with this are trained.

    Args:
        host: The node's name.
        version: Of the arrays that it started from.
        loss: Mean loss of the last epoch, in units of the usual error of the node's own linear part.
        seconds: That all of it took, without the start of the process.
        validation: Of the arrays as they came; empty where there is nothing to measure on.
    """

    host: _Name
    version: _Name
    loss: Annotated[float, Field(ge=-LARGEST_ERROR, le=LARGEST_ERROR)]
    seconds: Annotated[float, Field(ge=0)]
    validation: _Levels


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """A node's whole reply to a task: the arrays too, and over how many windows they were trained."""

    trained: Trained
    arrays: Arrays
    examples: int


@checked(frozen=True, config=_STRICT)
class Handout:
    """Keep the model file that comes with this; measure it on rows after the cutoff.

    Args:
        cutoff_ns: Nanoseconds since the epoch; None: where the model's train fraction puts it.
        until_ns: As in `Task`, for the receipt's `validation`; None: up to the newest row.
        keep: How many models to keep, with this one; older ones go.
    """

    cutoff_ns: int | None
    until_ns: int | None
    keep: int


@checked(frozen=True, config=_STRICT)
class Received:
    """The model is kept.

    Args:
        host: The node's name.
        digest: Of the model.
        scores: On the node's own rows, or None.
        reason: Why there are no scores; "" when there are.
        validation: Of the model, measured as in a round; empty where there is nothing to measure on.
    """

    host: _Name
    digest: _Name
    scores: Scores | None
    reason: _Reason
    validation: _Levels


@checked(frozen=True, config=_STRICT)
class Check:
    """How good is the model that you have on your newest rows?

    Args:
        digest: Of the model that the fleet should have.
        window_seconds: How far back the rows count, at most; those from before the model was made do not.
    """

    digest: _Name
    window_seconds: Annotated[float, Field(gt=0)]


@checked(frozen=True, config=_STRICT)
class Checked:
    """How good the model is on a node's newest rows.

    Args:
        host: The node's name.
        digest: Of the model.
        levels: On the newest rows; series with too few points are left out.
        before: On the test rows when the model was handed out; empty where it was not measured then.
        windows: Measured on the newest rows.
        since_ns: Their targets lie after it, nanoseconds since the epoch.
        age_seconds: Of the newest row.
    """

    host: _Name
    digest: _Name
    levels: _Levels
    before: _Levels
    windows: Annotated[int, Field(ge=1, le=2**53)]
    since_ns: Annotated[int, Field(ge=0, lt=2**63)]
    age_seconds: float


@checked(frozen=True, config=_STRICT)
class Refused:
    """The node cannot do what it was asked. The host is "" when it does not even know its own name."""

    host: _Name
    reason: _Reason
    cure: _Reason
