"""Check rows: some rows with the values and scores that came out of them where the bundle was made.

Whoever loads the bundle computes them again with the code that is here: another `derive`, another
function in a skops model or another library cannot change a version's answers unseen.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ValidationError

from mlops_loop.base.errors import Refusal
from mlops_loop.base.project import fingerprint
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
    empty = CheckRows(tolerance=tolerance, inputs=inputs, derived={}, scores=[])
    return computed_again(empty, schema, derive, scores)


def computed_again(rows: CheckRows, schema: Schema, derive: Deriver, scores: Score) -> CheckRows:
    columns: dict[str, Values] = {**rows.inputs}
    for name, column in schema.inputs.items():
        if column.type == "timestamp":
            columns[name] = np.array(rows.inputs[name], dtype="datetime64[s]")
    arrays = derive(columns)
    derived = {
        name: [None if value != value else value for value in array.tolist()]
        for name, array in arrays.items()
    }
    scored = scores({**columns, **arrays}).tolist()
    return rows.model_copy(update={"derived": derived, "scores": scored})


def check(bundle: Bundle, derive: Deriver, scores: Score) -> None:
    """Refuse a bundle whose check rows come out differently; one of an older version has none."""
    if FILE not in bundle.manifest.files:
        return
    try:
        old = CheckRows.model_validate_json((bundle.folder / FILE).read_bytes())
        new = computed_again(old, bundle.schema, derive, scores)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise Refusal(f"{bundle.folder / FILE} cannot be read: {reason}") from None
    except DeriveError as error:
        raise refusal(bundle, str(error), "derive") from None
    for name, values in new.derived.items():
        for row, (value, before) in enumerate(zip(values, old.derived[name], strict=True)):
            if not close(value, before, old.tolerance):
                what = f"{derive.name} gives {name!r} {value!r} for check row {row}, not {before!r}"
                raise refusal(bundle, what, "derive")
    found = np.array(new.scores)
    expected = np.array(old.scores)
    apart = np.abs(found - expected).max(axis=1)
    if not (apart <= old.tolerance * max(np.abs(expected).max(), 1e-30)).all():
        row = int(np.nan_to_num(apart, nan=np.inf).argmax())
        what = f"the model scores check row {row} {found[row, 0]:.6g}, not {expected[row, 0]:.6g}"
        raise refusal(bundle, what, "model")


def close(new: Value, old: Value, tolerance: float) -> bool:
    if isinstance(new, float) and isinstance(old, int | float):
        return bool(abs(new - old) <= tolerance * max(1, abs(old)))
    return bool(new == old)


def refusal(bundle: Bundle, what: str, plugin: str) -> Refusal:
    """Return the refusal of a bundle: what differs, which commit made it, and how to go on."""
    commit = bundle.promotion.git_commit
    made = f"commit {commit[:12]}" if commit else "an earlier state of this project"
    if bundle.manifest.code.get(plugin) == fingerprint(plugin):
        made += ", with the same function but perhaps other versions of libraries"
    ways = "serve it with that commit's code, or train and promote anew"
    ways += "; a changed feature needs a new name"
    return Refusal(f"{bundle.folder} is refused: {what}. It was made by {made}: {ways}")
