"""Segments: rows go to the model of their category, or to the fallback, and come back in order."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mlops_loop.scoring.derived import Array, Columns, Floats, Score, Values

FALLBACK = ""  # never the name of a segment: it stands for a missing category


def places(values: Values, names: Mapping[str, object]) -> dict[str, list[int]]:
    """Return the rows of each segment among `names`; all others are the fallback's."""
    found = defaultdict[str, list[int]](list)
    for place, value in enumerate(values):
        name = str(value)
        found[name if name in names else FALLBACK].append(place)
    return found


def gather(parts: Sequence[tuple[list[int], Array]], rows: int) -> Array:
    """Return what was computed for parts of the rows, in the order of the rows."""
    found = np.empty((rows, *parts[0][1].shape[1:]), dtype=parts[0][1].dtype)
    for rows_of_part, values in parts:
        found[rows_of_part] = values
    return found


def routed(column: str, models: Mapping[str, Score], fallback: Score) -> Score:
    """Return what scores each row with the model of its segment."""

    def scores(columns: Columns) -> Floats:
        found = places(columns[column], models)
        if len(found) < 2:  # such as the one row of a request; or no row
            return models.get(next(iter(found), FALLBACK), fallback)(columns)
        parts = [
            (rows, models.get(name, fallback)({key: at(columns[key], rows) for key in columns}))
            for name, rows in found.items()
        ]
        return gather(parts, len(columns[column]))  # type: ignore[return-value]

    return scores


def at(values: Values, rows: list[int]) -> Values:
    if isinstance(values, np.ndarray):
        return values[rows]
    return [values[row] for row in rows]
