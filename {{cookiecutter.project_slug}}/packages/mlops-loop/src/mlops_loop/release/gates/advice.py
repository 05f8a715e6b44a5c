"""What to try when a gate refuses: one sentence for each gate."""

from collections.abc import Iterable

from mlops_loop.base.project import current_project
from mlops_loop.metrics.gate_result import GateResult

SIMPLER = "`train.model: auto` or fewer and smaller trees in params.yaml, `uv run {slug} tune`"
ADVICE = {
    "server": "read the reason above; `BUNDLE=build/bundle uv run {slug} serve` shows it in full",
    "latency": "try a smaller model (fewer trees), or `export.format: onnx` if it is skops",
    "leakage: time": "end the training window before the test window: split in params.yaml",
    "leakage: rows": "remove repeated rows at the source, or allow for them: max_overlap in "
    "schema.yaml",
    "leakage": "if the column is known only after the target, give it the role `ignored` in "
    "schema.yaml; if it is honest, `gates.leakage: null` for this promotion",
    "labels": "look at the newest labels before the model: are they complete, and of this target?",
    "leakage: perfect": "look at the importance of the features in build/bundle/card.html before "
    "anybody trusts this model",
    "parity": "set `export.format: skops` in params.yaml, or train again: `uv run dvc repro -f`",
    "size": "try a smaller model (fewer trees), or a smaller `export.reference_rows`",
    "baseline": "the features tell little of the target, or the model learned noise: try more rows "
    f"or other columns, or {SIMPLER}",
    "champion": "keep the champion, or give the next candidate something new: newer rows, a "
    "feature, `uv run {slug} tune`",
    "slices": "look at these rows in reports/slices.csv: they need more rows or a feature of "
    "their own; evaluate.min_slice_rows says from when on a slice counts",
    "calibration": "it is surer than its results allow, often for too many trees on few rows: "
    f"try {SIMPLER}, or a CalibratedClassifierCV in model.py; for a regression see whether the "
    "validation and the test window are alike",
    "fairness": "compare the groups in reports/fairness.csv: look for features that stand for "
    "the group, and for groups with few rows",
    "behaviour": "look at reports/behaviour.csv: mend the feature or the data behind it, or the "
    "test in behaviour.yaml if it is the test that is wrong",
}


def advice(result: GateResult) -> str | None:
    """Return what to try about a refusal; None for another result, or a gate of the project."""
    asks = result.gate == "leakage: perfect"
    if result.passed is not False and not asks:
        return None
    for gate in (result.gate, result.gate.partition(":")[0]):
        if gate in ADVICE:
            return ADVICE[gate].format(slug=current_project().name)
    return None


def advices(results: Iterable[GateResult]) -> list[str]:
    """Return a line for each gate that refuses or asks, of what to try."""
    lines = [
        f"{result.gate.partition(':')[0]}: {text}" for result in results if (text := advice(result))
    ]
    return list(dict.fromkeys(lines))
