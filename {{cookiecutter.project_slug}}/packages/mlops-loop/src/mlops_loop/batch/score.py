"""Score: predict every row of a file or a folder; rows that break the contract are set aside.

Threads read, score and write at the same time. Answers are kept in parts beside the output until all is
whole: a run that was stopped is taken up where it was, unless the input or the model is another one.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source
from mlops_loop.base.settings import load_settings
from mlops_loop.batch import checkpoints, storage
from mlops_loop.contract.schema import Schema
from mlops_loop.data.cast import cast_if_valid, check_rows
from mlops_loop.data.source import batches, first_line, local, reader_of
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.derived import Breach
from mlops_loop.scoring.predictions import chosen
from mlops_loop.scoring.scorer import Scorer, open_scorer

WRITERS = {".parquet": pyarrow.parquet.ParquetWriter, ".csv": pyarrow.csv.CSVWriter}
THREADS = min(4, os.cpu_count() or 1)  # that score; more would wait for the one that writes
REASON = "reason"


def inputs(typed: pa.Table, schema: Schema) -> dict[str, np.ndarray]:
    """Return the contract's inputs as the scorer takes them: numbers as float32, categories as text.

    `typed` has them in the contract's types.
    """
    found = {}
    for name, column in schema.inputs.items():
        values = typed[name].combine_chunks()
        if column.type == "timestamp":
            found[name] = values.to_numpy(zero_copy_only=False).astype("datetime64[s]")
        elif (
            column.type == "category"
        ):  # each distinct text becomes a Python object once, not in every row
            coded = values.cast(pa.string()).dictionary_encode()
            texts = np.array([*coded.dictionary.to_pylist(), ""], dtype=object)
            found[name] = texts[
                coded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
            ]
        else:
            found[name] = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return found


def answers(scores: np.ndarray, schema: Schema, manifest: dict[str, Any]) -> pa.Table:
    """Return for each row the label and each class's probability, or the value and its interval.

    `scores` has the shape (rows, classes), or (rows, 1) for a regression.
    """
    scores, name = scores.astype(np.float64), schema.prediction
    if not schema.classes:
        value, half = scores[:, 0], manifest["half_width"]
        return pa.table({name: value, f"{name}, low": value - half, f"{name}, high": value + half})
    labels = pa.array(schema.classes).take(pa.array(chosen(scores, manifest)))
    chances = {
        f"probability of {each}": scores[:, place] for place, each in enumerate(schema.classes)
    }
    return pa.table({name: labels, **chances})


def predict(table: pa.Table, scorer: Scorer, bundle: Bundle) -> pa.Table:
    """Return the answer for each row, and the reason where it has none because it breaks the contract."""
    schema = bundle.schema
    absent = set(schema.inputs) - set(table.column_names)
    if needed := {name for name in absent if not schema.inputs[name].nullable}:
        raise Failure(f"the column {min(needed)!r} is missing, and schema.yaml does not let it be")
    gap = pa.nulls(len(table))
    given = pa.table({name: gap if name in absent else table[name] for name in schema.inputs})
    why = np.full(len(table), "", dtype=object)
    if (typed := cast_if_valid(given, schema.inputs)) is None:
        frame, found = check_rows(given.to_pandas(), schema.inputs)
        why = found.to_numpy(dtype=object)
        typed = pa.Table.from_pandas(frame[why == ""], preserve_index=False)
    scored = np.flatnonzero(why == "")
    scores, breaches = score_typed(typed, scorer, schema)
    for row, name, reason in breaches:
        why[scored[row]] = why[scored[row]] or f"{name} {reason}"
    answered = answers(scores, schema, bundle.manifest)
    if (bad := why != "").any():
        place = np.zeros(len(table), dtype=int)
        place[scored] = np.arange(len(scored))
        answered = answered.take(pa.array(place, mask=bad))
    answered = answered.append_column(REASON, pa.array(why, pa.string(), mask=~bad))
    if twice := set(answered.column_names) & set(table.column_names):
        raise Failure(f"the column {min(twice)!r} is there already: rename it")
    return answered


def score_typed(typed: pa.Table, scorer: Scorer, schema: Schema) -> tuple[np.ndarray, list[Breach]]:
    """Return the scores of rows that keep the contract, and what it forbids of what is derived from them."""
    if not len(typed):
        return np.empty((0, len(schema.classes) or 1)), []
    columns = inputs(typed, schema)
    derived = scorer.derive(columns)
    return scorer.scores(columns | derived), scorer.derive.breaches(derived)


def divide(table: pa.Table, answered: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows with their answers, and those that were rejected with the reasons."""
    good, scored = answered[REASON].is_null(), table
    for name in answered.column_names[:-1]:
        scored = scored.append_column(name, answered[name])
    rejected = table.append_column(REASON, answered[REASON])
    if answered[REASON].null_count == len(table):
        return scored, rejected.slice(0, 0)
    return scored.filter(good), rejected.filter(answered[REASON].is_valid())


def flat(table: pa.Table) -> pa.Table:
    """Return the table with nested values as text: a CSV file has no others."""
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            texts = [
                None if value is None else str(value) for value in table.column(place).to_pylist()
            ]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table


def ahead(
    tables: Iterator[pa.Table], work: Callable[[int, pa.Table], pa.Table]
) -> Generator[tuple[pa.Table, pa.Table]]:
    """Yield each table and what `work` makes of its number and itself, in order; threads do both ahead."""
    pool, waiting = ThreadPoolExecutor(THREADS + 1), deque[tuple[pa.Table, Future[pa.Table]]]()
    try:
        number, reading = 0, pool.submit(next, tables, None)
        while (table := reading.result()) is not None:
            reading = pool.submit(next, tables, None)
            waiting.append((table, pool.submit(work, number, table)))
            number += 1
            if len(waiting) > THREADS:
                first, answered = waiting.popleft()
                yield first, answered.result()
        while waiting:
            first, answered = waiting.popleft()
            yield first, answered.result()
    finally:
        pool.shutdown(cancel_futures=True)


def write(
    pairs: Iterator[tuple[pa.Table, pa.Table]], good: Path, bad: Path, bar: Callable[[int], None]
) -> list[int]:
    """Write tables with their answers to two files: rows scored, and rows rejected. Return their numbers."""
    kind, writers, rows = WRITERS[good.suffix], list[Any](), [0, 0]
    with ExitStack() as open_files:
        for table, answered in pairs:
            tables = divide(flat(table) if kind is pa.csv.CSVWriter else table, answered)
            if not writers:
                both = zip((good, bad), tables, strict=True)
                writers = [open_files.enter_context(kind(path, part.schema)) for path, part in both]
            for number, (writer, part) in enumerate(zip(writers, tables, strict=True)):
                writer.write_table(part)
                rows[number] += part.num_rows
            bar(table.num_rows)
    checkpoints.settle(good)
    checkpoints.settle(bad)
    return rows


class Scored(NamedTuple):
    rows: list[int]  # how many were scored, and how many were rejected
    scored: Path
    rejected: Path


def score_file(
    source: str, name: str, folder: Path, scorer: Scorer, bundle: Bundle, bar: Progress
) -> Scored:
    """Score one file into `folder`; return the numbers of rows and the files that hold them.

    What an earlier run has done there is taken over, if it had the same content, name and model.
    """
    with local(source) as path:
        facts = name, files.sha256(path), bundle.sha256, files.BATCH, pa.__version__
        key, suffix = sha256(repr(facts).encode()).hexdigest()[:32], Path(name).suffix
        counted, good, bad = (
            folder / f"{key}{end}" for end in (".json", suffix, f".rejects{suffix}")
        )
        if counted.is_file() and good.is_file() and bad.is_file():
            return Scored(files.read_json(counted), good, bad)
        if found := len(list(folder.glob(f"{key}-*.arrow"))):
            bar.console.print(f"{name}: {found} parts were scored by a run before", markup=False)

        def work(number: int, table: pa.Table) -> pa.Table:
            part = folder / f"{key}-{number}.arrow"
            if (answered := checkpoints.read(part, len(table))) is None:
                try:
                    answered = predict(table, scorer, bundle)
                except Failure as failure:
                    raise Failure(f"{format_source(source)}: {failure}") from None
                checkpoints.write(part, answered)
            return answered

        total = pa.parquet.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        task = bar.add_task(name, total=total)
        try:
            with closing(ahead(batches(source, bundle.schema.missing, path), work)) as pairs:
                rows = write(pairs, good, bad, lambda rows: bar.advance(task, rows))
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise Failure(
                f"{format_source(source)} cannot be scored to a {suffix} file: {first_line(error)}"
            ) from None
        files.write_json(counted, rows)
        for part in folder.glob(f"{key}-*.arrow"):
            part.unlink()
    return Scored(rows, good, bad)


def output_names(found: dict[str, str], folder: str) -> dict[str, str]:
    """Return for each file of a folder the name of its predictions: its own, or .parquet for JSON lines."""
    names: dict[str, str] = {}
    for name, place in found.items():
        reader_of(place)
        path = PurePosixPath(name)
        path = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
        output = (path if path.suffix in WRITERS else path.with_suffix(".parquet")).as_posix()
        if output in names.values():
            raise Failure(
                f"{format_source(folder)}: the predictions of two files would be called {output}: rename one"
            )
        names[name] = output
    if not names:
        raise Failure(f"{format_source(folder)} is an empty folder: files with rows are needed")
    return names


def check(source: str, targets: tuple[str, str], folder: bool) -> None:
    """Refuse, with a Failure, what would read its own output, or mix it with other files."""
    if "://" not in source and not Path(source).exists():
        raise Failure(f"{source} is not there")
    suffix = storage.name_of(targets[0]).suffix
    if folder and suffix in WRITERS:
        raise Failure(
            f"{format_source(source)} is a folder: OUTPUT must be one too, without {suffix}"
        )
    if not folder and suffix not in WRITERS:
        raise Failure(f"{format_source(targets[0])}: predictions are written to .parquet or .csv")
    for target in targets:
        if target == source:
            raise Failure(
                f"{format_source(source)} would be overwritten by its own predictions: name another file"
            )
        if "://" in target:
            continue
        place = Path(target).resolve()
        if "://" not in source and Path(source).resolve() in (
            place,
            *(place.parents if folder else ()),
        ):
            raise Failure(
                f"{source} would be overwritten by its own predictions: name another file"
            )
        if place.is_dir() and (not folder or any(place.iterdir())):
            raise Failure(f"{target} is a folder with other files: name another, or remove it")


def score(source: str, target: str | Path) -> tuple[list[int], str]:
    """Write the champion's predictions for the rows of `source` to `target`: files, or folders of files.

    Rows that break the contract go to a file or folder beside it. Neither is there before both are whole.
    Returns the numbers of rows scored and rejected, and where the rejected ones are.
    """
    source, target = storage.plain(source), storage.plain(str(target))
    found, place = storage.files_in(source), storage.name_of(target)
    rejects = storage.sibling(target, f"{place.stem}.rejects{place.suffix}")
    check(source, (target, rejects), found is not None)
    names = {source: place.name} if found is None else output_names(found, source)
    bundle = open_bundle(Path(load_settings().bundle))
    scorer, columns = (
        open_scorer(bundle),
        (TextColumn("{task.description}", markup=False), BarColumn()),
    )
    bar = Progress(*columns, TextColumn("{task.completed:,} rows"), console=Console(stderr=True))
    with checkpoints.folder_of(target) as folder, bar:
        made = {
            output: score_file((found or {}).get(name, source), output, folder, scorer, bundle, bar)
            for name, output in names.items()
        }
        rejected = {name: result.rejected for name, result in made.items()}
        scored = {name: result.scored for name, result in made.items()}
        # The rejects first: where the predictions are, they are too.
        for paths, there in ((rejected, rejects), (scored, target)):
            if found is None:
                storage.publish_file(paths[place.name], there)
            else:
                storage.publish_folder(paths, there)
    return [sum(result.rows[number] for result in made.values()) for number in (0, 1)], rejects
