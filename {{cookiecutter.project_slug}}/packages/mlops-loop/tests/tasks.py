"""The example's other tasks: the same flights with another target."""

from pathlib import Path
from typing import Any

import yaml

from mlops_loop.base import files
from mlops_loop.contract.schema import load_schema
from mlops_loop.onboarding.infer.adapt import new_behaviour

CLASSES = ["on_time", "late", "very_late", "cancelled"]
TARGETS = {
    "binary-classification": {"arrival": {"type": "category", "categories": CLASSES[:2]}},
    "multiclass-classification": {"outcome": {"type": "category", "categories": CLASSES}},
    "regression": {"air_time": {"type": "number", "minimum": 10, "maximum": 800}},
}
OF_A_REGRESSION = {  # the limits of the gates and the monitor that differ
    ("gates", "slices"): {"floor": 0.0, "max_gap": 1.0},
    ("gates", "calibration"): {"max_error": 0.15},
    ("monitor", "decay"): {"max_drop": 0.15, "max_calibration_error": 0.12},
}


def change(path: Path, *place: str, **values: Any) -> None:
    """Set keys of a YAML file, in the mapping at `place`; a value of None removes the key."""
    content = section = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in place:
        section = section[key]
    section.update(values)
    for key in [key for key, value in values.items() if value is None and path == files.SCHEMA]:
        del section[key]
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def example_tasks(root: Path) -> list[str | None]:
    """Return the tasks to test: the project's own (None), and of the example the others."""
    contract = yaml.safe_load((root / files.SCHEMA).read_text(encoding="utf-8"))
    if contract["name"] != "flights":
        return [None]
    return [None, *(task for task in TARGETS if task != contract["task"])]


def ask_for(task: str) -> None:
    """Make the example's contract in the working folder one for another task."""
    contract = yaml.safe_load(files.SCHEMA.read_text(encoding="utf-8"))
    del contract["columns"][contract["target"]]
    ((target, column),) = TARGETS[task].items()
    contract["columns"][target] = column | {"role": "target", "description": "What is predicted"}
    contract |= {"task": task, "target": target}
    contract.pop("positive", None)
    if task == "binary-classification":
        contract["positive"] = "late"
    if task == "regression":
        contract.pop("max_leakage", None)
        for place, values in OF_A_REGRESSION.items():
            change(files.PARAMS, *place, **values)
    files.SCHEMA.write_text(yaml.safe_dump(contract, sort_keys=False), encoding="utf-8")
    text, _ = new_behaviour(load_schema())
    if text is not None:
        files.BEHAVIOUR.write_text(text, encoding="utf-8")
