"""Verdict: what a gate says of a candidate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GateResult:
    """A line of the table that `promote` prints, keeps in the audit log and in the model card."""

    gate: str  # the key in params.yaml, and what it was about: "slices: carrier=HA"
    measure: str  # what `value` is, in a few words: "roc_auc"
    value: float | None
    limit: str  # as read: "> 0.6076"
    passed: bool | None  # None: the gate is off, or there was nothing to judge
