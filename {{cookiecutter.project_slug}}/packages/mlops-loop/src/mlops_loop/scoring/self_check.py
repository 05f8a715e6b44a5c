"""Check rows: some rows with the values and scores that came out of them where the bundle was made.

Whoever loads the bundle computes them again with the code that is here: another `derive`, another
function in a skops model or another library cannot change a version's answers unseen.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ValidationError

from mlops_loop.base.errors import Refusal
from mlops_loop.base.project import fingerprint
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row, Value
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.derived import Array, Arrays, Columns, DeriveError, Deriver, Score, Values

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
    columns = as_columns(inputs, schema.inputs)
    derived = derive(columns)
    values = {name: as_values(array) for name, array in derived.items()}
    scored = scores({**columns, **derived}).tolist()
    return CheckRows(tolerance=tolerance, inputs=inputs, derived=values, scores=scored)


def as_columns(
    inputs: Mapping[str, list[Value]], columns: Mapping[str, Column]
) -> dict[str, Values]:
    """Return columns as JSON has them as a scorer takes them."""
    times = {name for name, column in columns.items() if column.type == "timestamp"}
    return {
        name: np.array(values, dtype="datetime64[s]") if name in times else values
        for name, values in inputs.items()
    }


def as_values(array: Array) -> list[Value]:
    return [None if value != value else value for value in array.tolist()]


def check(bundle: Bundle, derive: Deriver, scores: Score) -> None:
    """Refuse a bundle whose check rows come out differently; one of an older version has none."""
    if FILE not in bundle.manifest.files:
        return
    try:
        rows = CheckRows.model_validate_json((bundle.folder / FILE).read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise Refusal(f"{bundle.folder / FILE} cannot be read: {reason}") from None
    columns = as_columns(rows.inputs, bundle.schema.inputs)
    derived = check_derived(bundle, rows, columns, derive)
    found = scores({**columns, **derived})
    expected = np.array(rows.scores)
    apart = np.abs(found - expected).max(axis=1)
    if not (apart <= rows.tolerance * max(np.abs(expected).max(), 1e-30)).all():
        row = int(np.nan_to_num(apart, nan=np.inf).argmax())
        raise refusal(
            bundle,
            f"the model scores check row {row} {found[row, 0]:.6g}, not {expected[row, 0]:.6g}",
            "model",
        )


def check_derived(bundle: Bundle, rows: CheckRows, columns: Columns, derive: Deriver) -> Arrays:
    """Return the derived columns of the check rows; refuse the bundle if it holds others."""
    try:
        derived = derive(columns)
    except DeriveError as error:
        raise refusal(bundle, str(error), "derive") from None
    for name, array in derived.items():
        for row, (new, old) in enumerate(zip(as_values(array), rows.derived[name], strict=True)):
            if not close(new, old, rows.tolerance):
                raise refusal(
                    bundle,
                    f"{derive.name} gives {name!r} {new!r} for check row {row}, not {old!r}",
                    "derive",
                )
    return derived


def close(new: Value, old: Value, tolerance: float) -> bool:
    if isinstance(new, float) and isinstance(old, int | float):
        return bool(abs(new - old) <= tolerance * max(1, abs(old)))
    return bool(new == old)


def refusal(bundle: Bundle, what: str, plugin: str) -> Refusal:
    """Return the refusal of a bundle: what differs, which commit made it, and how to go on."""
    commit = bundle.promotion.git_commit
    made = (
        f"was made by commit {commit[:12]}"
        if commit
        else "was made by an earlier state of this project"
    )
    if bundle.manifest.code.get(plugin) == fingerprint(plugin):
        made += ", with the same function but perhaps other versions of libraries"
    ways = "serve it with that commit's code, or train and promote anew"
    ways += "; a changed feature needs a new name"
    return Refusal(f"{bundle.folder} is refused: {what}. It {made}: {ways}")
