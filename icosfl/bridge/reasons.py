"""Why a data point is not stored: every point that the bridge leaves out carries one of these reasons."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """A reason, in the order in which they are tested: its name on the metrics page, and what it says to the sender.

    A reason that is `rejected` is told to the sender in `partial_success`, as OTLP asks: something is wrong and
    somebody can put it right. The others leave out what the rules do not ask for; that is no fault of the sender, and
    a warning a request would only teach its operator to look away. They are told when nothing of a request is kept.
    """

    UNKNOWN_RESOURCE = ("unknown_resource", True, "no rule matches the resource")
    HISTOGRAM = ("histogram", True, "only gauges and sums are kept, not histograms")
    EXPONENTIAL_HISTOGRAM = ("exponential_histogram", True, "only gauges and sums are kept, not exponential histograms")
    SUMMARY = ("summary", True, "only gauges and sums are kept, not summaries")
    UNKNOWN_METRIC = ("unknown_metric", False, "no rule asks for the metric")
    NOT_CUMULATIVE = ("not_cumulative", True, "the sum is not cumulative: choose cumulative temporality in the sender")
    NO_VALUE = ("no_value", False, "the point carries no value")
    NOT_FINITE = ("not_finite", True, "the value is NaN or infinite, or becomes so by the rule's scale")
    NO_TIME = ("no_time", True, "the point has no time")
    IN_FUTURE = ("in_future", True, "the time lies in the future: set the sender's clock")
    TOO_OLD = ("too_old", True, "the time lies before the store's window, which is full")
    OTHER_ATTRIBUTES = ("other_attributes", False, "no rule asks for the point's attributes")
    AMBIGUOUS = ("ambiguous", True, "several streams match one source: name its attributes in the rule")
    INCOMPLETE = ("incomplete", True, "the difference needs both of its metrics at the same time")
    SUPERSEDED = ("superseded", False, "a later point of the same row took its place")

    def __init__(self, label: str, rejected: bool, text: str) -> None:
        self.label = label
        self.rejected = rejected
        self.text = text
