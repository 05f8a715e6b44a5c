"""A behaviour.yaml to begin with: no test, and an example of each kind as a comment."""

import json

from mlops_loop.contract.schema import Column, Schema
from mlops_loop.reporting import page


def without_tests(schema: Schema) -> str:
    """Return a behaviour.yaml that declares no test, with an example of each kind as a comment."""
    name, column = next(iter(schema.features.items()))
    low, high = schema.columns[schema.target].limits
    unit = 1 if schema.classes else high - low  # of scores
    scored = schema.positive or next(iter(schema.classes), None)
    template = page.environment(autoescape=False).get_template("behaviour.yaml.j2")
    text = template.render(
        column=json.dumps(name),  # all JSON is YAML
        value=json.dumps(allowed(column)),
        tolerance=0.05 * unit,
        of=f"#     of: {json.dumps(scored)}\n" if scored else "",
        by=0.01 * unit,
        right=f"label: {json.dumps(scored)}" if scored else f"minimum: {low}",
    )
    return f"{text}\n"


def allowed(column: Column) -> str | float | bool:
    """Return a value of the column."""
    if column.type in ("number", "integer"):
        return column.limits[0]
    return True if column.type == "boolean" else (column.categories or ("",))[-1]
