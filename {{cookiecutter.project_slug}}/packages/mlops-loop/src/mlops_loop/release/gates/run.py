"""The gates in the order in which `promote` runs them; one that is null says that it is off."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pandas as pd

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import Gates, Params
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release.candidate import Candidate, open_candidate, open_champion
from mlops_loop.release.gates import champion, leakage, quality
from mlops_loop.release.smoke_test.run import smoke_test
from mlops_loop.scoring.bundle import Bundle


@dataclass(frozen=True)
class Gate:
    """A gate: what judges a candidate by its limits, and what to try when it refuses one."""

    judge: Callable[..., list[GateResult]]  # of a Candidate and the gate's section of params.yaml
    advice: str


SIMPLER = "`train.model: auto` or fewer and smaller trees in params.yaml, `uv run {slug} tune`"
GATES = {
    "leakage": Gate(
        leakage.leakage,
        "if the column is known only after the target, give it the role `ignored` in schema.yaml; "
        "if it is honest, `gates.leakage: null` for this promotion",
    ),
    "labels": Gate(
        champion.labels,
        "look at the newest labels before the model: are they complete, and of this target?",
    ),
    "parity": Gate(
        quality.parity, "set `export.format: skops`, or train again: `uv run dvc repro -f`"
    ),
    "size": Gate(quality.size, "fewer trees, or a smaller `export.reference_rows`"),
    "baseline": Gate(
        quality.baseline,
        "the features tell little of the target, or the model learned noise: try more rows or "
        f"other columns, or {SIMPLER}",
    ),
    "champion": Gate(
        champion.champion,
        "keep the champion, or try something new: newer rows, a feature, `uv run {slug} tune`",
    ),
    "slices": Gate(
        quality.slices,
        "look at these rows in reports/slices.csv: they need more rows or a feature of their own; "
        "evaluate.min_slice_rows says from when on a slice counts",
    ),
    "calibration": Gate(
        quality.calibration,
        f"it is surer than its results allow, often for too many trees on few rows: try {SIMPLER}, "
        "or a CalibratedClassifierCV in model.py; for a regression compare the validation window",
    ),
    "fairness": Gate(
        quality.fairness,
        "look in reports/fairness.csv for groups with few rows, and features that stand for one",
    ),
    "behaviour": Gate(
        quality.behaviour,
        "look at reports/behaviour.csv: mend the feature, the data or the test in behaviour.yaml",
    ),
}
ADVICE = {
    **{name: gate.advice for name, gate in GATES.items()},
    "server": "read the reason above; `BUNDLE=build/bundle uv run {slug} serve` shows it in full",
    "latency": "fewer trees, or `export.format: onnx` if it is skops",
    "leakage: time": "end the training window before the test window: split in params.yaml",
    "leakage: rows": "remove repeated rows at the source, or allow max_overlap in schema.yaml",
    "leakage: perfect": "look at the features' importance in build/bundle/card.html",
}


def run_gates(
    bundle: Bundle, served: Bundle | None, window: pd.DataFrame, params: Params
) -> list[GateResult]:
    """Return what every gate says of a bundle; both models score the same window."""
    started = smoke_test(bundle, window, params.gates)
    # First, because a bundle that does not start cannot be asked anything.
    if any(result.passed is False and result.gate == "server" for result in started):
        return started + [GateResult(name, "the server comes first") for name in GATES]
    compared = open_champion(served, bundle, window, params) if served else None
    candidate = open_candidate(bundle, compared, window, params.evaluate)
    return [*started, *check(candidate, params.gates), *own_gates(candidate)]


def check(candidate: Candidate, gates: Gates) -> list[GateResult]:
    """Return what the loop's gates say of a candidate, in their order."""
    found = list[GateResult]()
    for name, gate in GATES.items():
        limits = getattr(gates, name)
        found += gate.judge(candidate, limits) if limits else [GateResult(name, "off")]
    return found


def own_gates(candidate: Candidate) -> list[GateResult]:
    """Return what the project's own gates say, each under its name in project.py."""
    found = list[GateResult]()
    for name, gate in project.load_all("gates").items():
        found += named(name, gate(candidate))
    return found


def named(name: str, returned: object) -> list[GateResult]:
    """Return an own gate's results as "recall: carrier=HA"; refuse anything else it returned."""
    given = returned if isinstance(returned, list) else [returned]
    results = [result for result in given if isinstance(result, GateResult)]
    if not results or len(results) < len(given):
        wanted = "return a GateResult, such as compare(...) gives, or a list of them"
        raise Failure(f"project.py: gates: {name} returned {returned!r}: {wanted}")
    for place, result in enumerate(results):
        about = result.gate.removeprefix(name).removeprefix(":").strip()
        results[place] = replace(result, gate=f"{name}: {about}" if about else name)
    return results


def advices(results: Iterable[GateResult]) -> list[str]:
    """Return a line of what to try for each of the loop's gates that refuses or asks."""
    slug = project.current_project().name
    lines = dict[str, None]()
    for result in results:
        name = result.gate.partition(":")[0]
        advice = ADVICE.get(result.gate) or ADVICE.get(name)
        if advice and (result.passed is False or result.gate == "leakage: perfect"):
            lines[f"{name}: {advice.format(slug=slug)}"] = None
    return list(lines)
