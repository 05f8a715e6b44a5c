"""Gate result: what a gate says of a candidate. The same fields are its JSON.

Audit log, registry, promotion.json and `promote --json` hold it; older versions of this package
wrote gate, measure, value, limit and passed alone, and go on reading those.
"""

import math
import operator
from typing import Literal

from pydantic.dataclasses import dataclass

Relation = Literal["<", "<=", ">", ">="]
RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class GateResult:
    """A line of the gate table. Make one that compares a value with a limit by `compare`."""

    gate: str  # the key in params.yaml, and what it was about: "slices: carrier=HA"
    measure: str  # what `value` is, in a few words: "roc_auc"
    value: float | None = None
    limit: str = ""  # relation and number as tables show them: "> 0.6076"
    passed: bool | None = None  # None: the gate is off, or there was nothing to judge
    relation: Relation | None = None
    number: float | None = None


def compare(gate: str, measure: str, value: float, relation: Relation, number: float) -> GateResult:
    """Return whether the value is in this relation to the number; NaN is in none."""
    passed = bool(RELATIONS[relation](value, number))
    finite = [float(found) if math.isfinite(found) else None for found in (value, number)]
    limit = f"{relation} {number:.6g}"
    return GateResult(gate, measure, finite[0], limit, passed, relation, finite[1])


def check_limit(measure: str, value: float, relation: Relation, limit: float) -> GateResult:
    """Return the result of an own gate, which project.py names."""
    return compare("", measure, value, relation, limit)


def format_reason(result: GateResult) -> str:
    """Return a result as part of the line that says why a candidate is refused."""
    value = "" if result.value is None else f" {result.value:.4g}"
    limit = f", asked for {result.limit}" if result.limit else ""
    return f"{result.gate}: {result.measure}{value}{limit}"
