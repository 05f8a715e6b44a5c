"""A behaviour.yaml to begin with: no test, and an example of each kind as a comment."""

import json

from mlops_loop.contract.schema import Column, Schema

TEXT = """\
# What the model must do, whatever its metrics. `promote` runs these tests on the test window.
#
# invariance   what must not matter: the score moves by at most `tolerance`, in this `share` of rows
# directional  what must matter: the score of a class, or the value, rises or falls by so much on
#              average, or in a `share` of the rows
# minimum      what any model must get right: a label, or a score in limits, in a `share` of rows
#
# where: which rows; given: set in them beforehand; set, add: what is changed. Source of the idea:
# Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with CheckList, ACL 2020.
#
# For example, but say what is true in the world:
#
# invariance:
#   - name: what must not matter
#     why: Say here why this holds for any good model
#     set: {{{column}: {value}}}
#     tolerance: {tolerance}
#     share: 0.95
# directional:
#   - name: what must raise it
#     why: Say here why this holds for any good model
#     set: {{{column}: {value}}}
#     expect: rise
{of}#     by: {by}
# minimum:
#   - name: a clear case
#     why: Say here why this holds for any good model
#     where: {{{column}: {value}}}
#     {right}
#     share: 0.9
invariance: []
directional: []
minimum: []
"""


def without_tests(schema: Schema) -> str:
    """Return a behaviour.yaml that declares no test, with an example of each kind as a comment."""
    name, column = next(iter(schema.features.items()))
    low, high = schema.columns[schema.target].limits
    unit = 1 if schema.classes else high - low  # of scores
    scored = schema.positive or next(iter(schema.classes), None)
    right = f"label: {json.dumps(scored)}" if scored else f"minimum: {low}"
    return TEXT.format(
        column=json.dumps(name),  # all JSON is YAML
        value=json.dumps(allowed(column)),
        tolerance=0.05 * unit,
        of=f"#     of: {json.dumps(scored)}\n" if scored else "",
        by=0.01 * unit,
        right=right,
    )


def allowed(column: Column) -> str | float | bool:
    """Return a value of the column."""
    if column.type in ("number", "integer"):
        return column.limits[0]
    return True if column.type == "boolean" else (column.categories or ("",))[-1]
