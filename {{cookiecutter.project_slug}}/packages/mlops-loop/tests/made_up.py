"""A contract that is made up, for tests that need none of the project's data."""

from typing import Any

from mlops_loop.contract.schema import Schema

CLASSES = {
    "binary-classification": ["no", "yes"],
    "multiclass-classification": ["no", "perhaps", "yes"],
    "regression": [],
}


def raw_contract(task: str, columns: dict[str, Any], **about: Any) -> dict[str, Any]:
    """Return what schema.yaml says of these columns and a `target`."""
    target: dict[str, Any] = {"type": "number", "minimum": -1000, "maximum": 1000}
    if CLASSES[task]:
        target = {"type": "category", "categories": CLASSES[task]}
    if task == "binary-classification":
        about["positive"] = "yes"
    columns = columns | {"target": target | {"role": "target"}}
    return {"name": "t", "task": task, "target": "target", "columns": columns, **about}


def made_up_contract(task: str, columns: dict[str, Any], **about: Any) -> Schema:
    return Schema.model_validate(raw_contract(task, columns, **about))
