"""A behaviour.yaml to begin with: no test, and an example of each kind as a comment."""

from collections.abc import Mapping

import yaml

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.training.behaviour.declaration import NUMBERS, Behaviour

HEAD = """\
# What the model must do, whatever its metrics. `promote` runs these tests on the test window.
#
# invariance   what must not matter: the score moves by at most `tolerance`, in this `share` of rows
# directional  what must matter: the score of a class, or the value, rises or falls by so much on
#              average, or in a `share` of the rows
# minimum      what any model must get right: a label, or a score in limits, in a `share` of rows
#
# where: which rows; given: set in them beforehand; set, add: what is changed. Source of the idea:
# Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList, ACL 2020.
"""


Example = Mapping[str, Value | Mapping[str, Value | Mapping[str, float]]]


def without_tests(schema: Schema) -> str:
    """Return a behaviour.yaml that declares no test, with an example of each kind as a comment."""
    tests = examples(schema)
    readable = "\\" not in str(tests)  # a line break within a name would end the comment
    text = yaml.safe_dump(
        tests, default_flow_style=None, sort_keys=False, allow_unicode=readable, width=100
    )
    lines = "".join(f"# {line}\n" for line in text.splitlines())
    none = "".join(f"{kind}: []\n" for kind in Behaviour.model_fields)
    return f"{HEAD}#\n# For example, but say what is true in the world:\n#\n{lines}{none}"


def examples(schema: Schema) -> dict[str, list[Example]]:
    """Return a test of each kind that fits the contract, made from its first columns."""
    features = schema.features
    numbers = [name for name, column in features.items() if column.type in NUMBERS]
    others = [name for name in features if name not in numbers]
    small = (others + numbers)[0]
    large = (numbers + others)[0]
    low, high = schema.columns[schema.target].limits
    right = {"label": schema.classes[0]} if schema.classes else {"minimum": low, "maximum": high}
    score = {"of": schema.positive or schema.classes[0]} if schema.classes else {}
    why = "Say here why this holds for any good model"
    return {
        "invariance": [
            {"name": "what must not matter", "why": why, **shift(small, features[small], 0.01)}
            | {"tolerance": 0.05 if schema.classes else (high - low) / 20, "share": 0.95}
        ],
        "directional": [
            {"name": "what must raise it", "why": why, **shift(large, features[large], 0.2)}
            | {"expect": "rise", **score, "by": 0.01 if schema.classes else (high - low) / 100}
        ],
        "minimum": [
            {
                "name": "a clear case",
                "why": why,
                "where": {small: first(features[small])},
                **right,
                "share": 0.9,
            }
        ],
    }


def first(column: Column) -> Value | Mapping[str, float]:
    """Return a value of the column, or a condition that all its values keep."""
    if column.type == "category":
        return (column.categories or ("",))[0]
    low, high = column.limits
    return True if column.type == "boolean" else {"minimum": low, "maximum": high}


def shift(name: str, column: Column, part: float) -> Example:
    """Return a change of a column: to another category, or by a part of the contract's range."""
    if column.type in NUMBERS:
        amount = float(f"{(column.limits[1] - column.limits[0]) * part:.1g}")
        return {"add": {name: max(1, round(amount)) if column.type == "integer" else amount}}
    values = [False, True] if column.type == "boolean" else (column.categories or ("",))
    return {"given": {name: values[0]}, "set": {name: values[-1]}}
