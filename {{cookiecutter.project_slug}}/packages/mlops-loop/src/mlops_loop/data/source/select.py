"""Select the contract's columns of a table, each value in its type."""

from collections.abc import Collection, Mapping

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Column
from mlops_loop.data.cast import Cell, cells
from mlops_loop.data.engine import Rows


class Misfit(Failure):
    """A source lacks columns, or values in them do not fit their types."""

    def __init__(self, source: str, names: Collection[str]) -> None:
        super().__init__(f"{source} has no column {min(names)!r} that fits schema.yaml")
        self.names = names


def found_cells(rows: Rows, columns: Mapping[str, Column], name: str) -> dict[str, Cell]:
    """Return the columns of the contract that a table has; messages call it by the name."""
    if found := cells(rows, columns):
        return found
    raise Failure(f"{name} has none of the columns in schema.yaml")


def shown(found: Mapping[str, Cell], as_text: Collection[str]) -> list[str]:
    """Return each value in its type, or `as_text`; the query fails if one does not fit."""
    return [
        f"{cell.source}::VARCHAR" if name in as_text else strict(cell)
        for name, cell in found.items()
    ]


def strict(cell: Cell) -> str:
    return f"coalesce({cell.typed}, CASE WHEN {cell.given} THEN error('a misfit') END)"


def misfits(rows: Rows, columns: Mapping[str, Column]) -> set[str]:
    """Return the columns of which a value does not fit its type."""
    found = cells(rows, columns)
    asked = ", ".join(f"coalesce(bool_or({cell.misfit}), false)" for cell in found.values())
    (answer,) = rows.connection.sql(f"SELECT {asked} FROM rows").fetchall()
    return {name for name, wrong in zip(found, answer, strict=True) if wrong}
