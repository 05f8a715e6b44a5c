"""The gates in the order in which `promote` runs them; one that is null says that it is off."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import Gates, Params
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release.candidate import Candidate, open_candidate, open_champion
from mlops_loop.release.gates import champion, leakage, quality
from mlops_loop.release.gates.segments import segments
from mlops_loop.release.smoke_test.run import smoke_test
from mlops_loop.scoring.bundle import Bundle

SIMPLER = "`train.model: auto` or fewer and smaller trees in params.yaml, `uv run {slug} tune`"
# What judges a candidate by the gate's section of params.yaml.
GATES: dict[str, Callable[..., list[GateResult]]] = {
    "leakage": leakage.leakage,
    "labels": champion.labels,
    "parity": quality.parity,
    "size": quality.size,
    "baseline": quality.baseline,
    "champion": champion.champion,
    "slices": quality.slices,
    "calibration": quality.calibration,
    "fairness": quality.fairness,
    "behaviour": quality.behaviour,
}
ADVICE = {  # what to try when a gate refuses
    "server": "read the reason above; `BUNDLE=build/bundle uv run {slug} serve` shows it in full",
    "latency": "fewer trees, or `export.format: onnx` if it is skops",
    "leakage": "if the column is known only after the target, give it the role `ignored` in "
    "schema.yaml; if it is honest, `gates.leakage: null` for this promotion",
    "leakage: time": "end the training window before the test window: split in params.yaml",
    "leakage: rows": "remove repeated rows at the source, or allow max_overlap in schema.yaml",
    "leakage: perfect": "look at the features' importance in build/bundle/card.html",
    "labels": "look at the newest labels before the model: are they complete, and of this target?",
    "parity": "set `export.format: skops`, or train again: `uv run dvc repro -f`",
    "size": "fewer trees, or a smaller `export.reference_rows`",
    "baseline": "the features tell little of the target, or the model learned noise: try more rows "
    f"or other columns, or {SIMPLER}",
    "champion": "keep the champion, or try something new: newer rows, a feature, "
    "`uv run {slug} tune`",
    "slices": "look at these rows in reports/slices.csv: they need more rows or a feature of their "
    "own; evaluate.min_slice_rows says from when on a slice counts",
    "calibration": "it is surer than its results allow, often for too many trees on few rows: try "
    f"{SIMPLER}, or a CalibratedClassifierCV in model.py; for a regression compare the validation "
    "window",
    "fairness": "look in reports/fairness.csv for groups with few rows, and features that stand "
    "for one",
    "behaviour": "look at reports/behaviour.csv: mend the feature, the data or the test in "
    "behaviour.yaml",
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
    found = started + check(candidate, params.gates)
    for name, gate in project.load_all("gates").items():
        found += named(name, gate(candidate))
    return found


def check(candidate: Candidate, gates: Gates) -> list[GateResult]:
    """Return what the loop's gates say of a candidate, in their order."""
    found = list[GateResult]()
    for name, judge in GATES.items():
        limits = getattr(gates, name)
        found += judge(candidate, limits) if limits else [GateResult(name, "off")]
    return found + segments(candidate, gates)


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
