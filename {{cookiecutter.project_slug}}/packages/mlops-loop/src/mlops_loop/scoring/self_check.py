"""Check rows: some rows with the values and scores that came out of them where the bundle was made.

Whoever loads the bundle computes them again with the code that is here: another `derive`, another
function in a skops model or another library cannot change a version's answers unseen.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from mlops_loop.base.errors import Refusal
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Row, Value
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.derived import DeriveError, Deriver, Score, Values

FILE = "check_rows.json"
ROWS = 100
TOLERANCE = 1e-5  # where gates.parity is off


class CheckRows(BaseModel, extra="forbid"):
    """What check_rows.json holds, by column; numbers may differ by `tolerance`, relatively."""

    tolerance: float
    inputs: dict[str, list[Value]]
    derived: dict[str, list[Value]]
    scores: list[list[float]]


def compute(
    rows: Sequence[Row], schema: Schema, derive: Deriver, scores: Score, tolerance: float
) -> CheckRows:
    """Return rows, given as the API takes them, with what is derived from them and their scores."""
    inputs = {name: [row[name] for row in rows] for name in schema.inputs}
    columns: dict[str, Values] = {**inputs}
    for name, column in schema.inputs.items():
        if column.type == "timestamp":
            columns[name] = np.array(inputs[name], dtype="datetime64[s]")
    arrays = derive(columns)
    derived = {
        name: [None if value != value else value for value in array.tolist()]
        for name, array in arrays.items()
    }
    scored = scores({**columns, **arrays}).tolist()
    return CheckRows(tolerance=tolerance, inputs=inputs, derived=derived, scores=scored)


def check(bundle: Bundle, derive: Deriver, scores: Score) -> None:
    """Refuse a bundle whose check rows come out differently; one of an older version has none."""
    if FILE not in bundle.manifest.files:
        return
    old = CheckRows.model_validate_json((bundle.folder / FILE).read_bytes())
    values = zip(*old.inputs.values(), strict=True)
    rows = [dict(zip(old.inputs, row, strict=True)) for row in values]
    try:
        new = compute(rows, bundle.schema, derive, scores, old.tolerance)
    except DeriveError as error:
        raise refusal(bundle, str(error)) from None
    for name, before in old.derived.items():
        if found := difference(new.derived[name], before, old.tolerance):
            raise refusal(bundle, f"{derive.name} gives {name!r} {found}")
    columns = [np.transpose(side.scores).tolist() for side in (new, old)]
    for after, before in zip(*columns, strict=True):
        if found := difference(after, before, old.tolerance):
            raise refusal(bundle, f"the model scores {found}")


def difference(new: Sequence[Value], old: Sequence[Value], tolerance: float) -> str:
    """Return the first value of a column that differs, "" if none does."""
    tolerance *= max((abs(value) for value in old if isinstance(value, float)), default=0)
    for row, (value, before) in enumerate(zip(new, old, strict=True)):
        if isinstance(value, float) and isinstance(before, float):
            same = abs(value - before) <= tolerance
        else:
            same = value == before
        if not same:
            return f"{value!r} for check row {row}, not {before!r}"
    return ""


def refusal(bundle: Bundle, what: str) -> Refusal:
    """Return the refusal of a bundle: what differs, which commit made it, and how to go on."""
    commit = bundle.promotion.git_commit
    made = f"commit {commit[:12]}" if commit else "an earlier state of this project"
    ways = "serve it with that commit's code, or train and promote anew"
    return Refusal(
        f"{bundle.folder} is refused: {what}. It was made by {made}: {ways}; "
        "a changed feature needs a new name"
    )
