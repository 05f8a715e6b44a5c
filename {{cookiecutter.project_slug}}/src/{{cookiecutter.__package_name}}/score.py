"""Score: predict every row of a file, some at a time; rows that break the contract are set aside."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from . import files
from .bundle import open_bundle
from .conform import judge
from .errors import Failure
from .export import columns
from .schema import Schema
from .serve.scorer import Scorer
from .settings import load_settings
from .source import batches

WRITERS = {".parquet": pyarrow.parquet.ParquetWriter, ".csv": pyarrow.csv.CSVWriter}


def answers(scorer: Scorer, rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return for each row the label and each class's probability, or the value and its interval."""
    found = scorer.score(columns(rows, schema)) if len(rows) else []
    if schema.classes:
        parts = {schema.prediction: [answer["label"] for answer in found]}
        for name in schema.classes:
            parts[f"probability of {name}"] = [answer["probabilities"][name] for answer in found]
    else:
        parts = {schema.prediction: [answer["value"] for answer in found]}
        for place, name in enumerate(("low", "high")):
            parts[f"{schema.prediction}, {name}"] = [answer["interval"][place] for answer in found]
    kinds = {name: "str" if schema.classes and name == schema.prediction else "float64" for name in parts}
    return pd.DataFrame(parts, index=rows.index).astype(kinds)


def flat(table: pa.Table) -> pa.Table:
    """Return the table with nested values as text: a CSV file has no others."""
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            texts = [None if value is None else str(value) for value in table.column(place).to_pylist()]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table


def divide(table: pa.Table, scorer: Scorer, schema: Schema) -> tuple[pa.Table, pa.Table]:
    """Return the rows with their predictions, and those that are rejected with the reasons."""
    given = {name: column for name, column in schema.features.items() if name in table.column_names}
    needed = {name for name, column in schema.features.items() if not column.nullable}
    if missing := needed - set(given):
        raise Failure(f"the column {min(missing)!r} is missing, and schema.yaml does not let it be")
    typed, reasons = judge(table.select(list(given)).to_pandas(), given)
    good = (reasons == "").to_numpy()
    predicted = answers(scorer, typed.reindex(columns=list(schema.features))[good], schema)
    scored, rejected = table.filter(pa.array(good)), table.filter(pa.array(~good))
    if twice := {*predicted, "reason"} & set(table.column_names):
        raise Failure(f"the column {min(twice)!r} is there already: rename it")
    for name in predicted:
        scored = scored.append_column(name, pa.array(predicted[name]))
    return scored, rejected.append_column("reason", pa.array(reasons[~good], pa.string()))


def score(source: str, target: Path) -> tuple[list[int], Path]:
    """Write the champion's predictions for the rows of `source` to `target`.

    Rows that break the contract go to a file beside it. Neither is there before both are whole.
    Returns the numbers of rows scored and rejected, and the path of the rejected ones.
    """
    if target.suffix not in WRITERS:
        raise Failure(f"{target}: predictions are written to .parquet or .csv")
    rejects = target.with_name(f"{target.stem}.rejects{target.suffix}")
    if Path(source).resolve() in (target.resolve(), rejects.resolve()):
        raise Failure(f"{source} would be overwritten by its own predictions: name another file")
    bundle = open_bundle(Path(load_settings().bundle))
    scorer, schema, rows = Scorer(bundle), bundle.schema, [0, 0]
    bar = Progress(SpinnerColumn(), TextColumn("{task.completed:,} rows"), console=Console(stderr=True))
    with ExitStack() as open_files, files.writing(target) as good, files.writing(rejects) as bad, bar:
        task, writers = bar.add_task("score"), list[Any]()
        for table in batches(source, schema.missing):
            parts = divide(flat(table) if target.suffix == ".csv" else table, scorer, schema)
            if not writers:
                kind = WRITERS[target.suffix]
                pairs = zip((good, bad), parts, strict=True)
                writers = [open_files.enter_context(kind(path, part.schema)) for path, part in pairs]
            for number, (writer, part) in enumerate(zip(writers, parts, strict=True)):
                writer.write_table(part)
                rows[number] += part.num_rows
            bar.advance(task, table.num_rows)
        open_files.close()
    return rows, rejects
