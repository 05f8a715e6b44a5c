"""Score: predict every row of a file or a folder; rows that break the contract are set aside.

Threads score while others are read and written. Answers are kept in parts beside the output until
all is whole: a run that was stopped is taken up where it was, unless the input or the model is
another one.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

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
from mlops_loop.batch.predict import OTHERWISE, divide, flat, predict
from mlops_loop.data.source.read import batches, local
from mlops_loop.data.source.remote import first_line
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.scorer import Scorer, open_scorer

THREADS = min(4, os.cpu_count() or 1)  # that score; more would wait for the one that writes
WRITERS = {".parquet": pyarrow.parquet.ParquetWriter, ".csv": pyarrow.csv.CSVWriter}


class Outcome(NamedTuple):
    scored: int  # rows
    rejected: int
    rejects: str  # where the rejected rows are


def score(source: str, target: str | Path) -> Outcome:
    """Write the champion's predictions for the rows of `source` to `target`: a file, or a folder.

    Rows that break the contract go to one beside it. Neither is there before both are whole.
    """
    source, target = storage.plain(source), storage.plain(str(target))
    place = storage.name_of(target)
    found = storage.files_in(source)
    rejects = storage.sibling(target, f"{place.stem}.rejects{place.suffix}")
    storage.refuse_overwriting(source, (target, rejects), found is not None)
    names = {source: place.name} if found is None else storage.output_names(found, source)
    bundle = open_bundle(Path(load_settings().bundle))
    scorer = open_scorer(bundle)
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    bar = Progress(*columns, TextColumn("{task.completed:,} rows"), console=Console(stderr=True))
    with checkpoints.folder_of(target) as folder, bar:
        made = {
            output: score_file((found or {}).get(name, source), output, folder, scorer, bundle, bar)
            for name, output in names.items()
        }
        good, bad = (sum(result.rows[number] for result in made.values()) for number in (0, 1))
        rejected = {name: result.rejected for name, result in made.items()}
        scored = {name: result.scored for name, result in made.items()}
        # The rejects first: where the predictions are, they are too. Nothing replaces a good output
        # if no row was scored.
        for paths, there in ((rejected, rejects), (scored, target))[: 2 if good else 1]:
            if found is None:
                storage.publish_file(paths[place.name], there)
            else:
                storage.publish_folder(paths, there)
    return Outcome(good, bad, rejects)


class Scored(NamedTuple):
    rows: list[int]  # how many were scored, and how many were rejected
    scored: Path
    rejected: Path


def score_file(
    source: str, name: str, folder: Path, scorer: Scorer, bundle: Bundle, bar: Progress
) -> Scored:
    """Score one file into `folder`, or take over what an earlier run of the same has done there."""
    with local(source) as path:
        facts = name, files.sha256(path), bundle.sha256, files.BATCH, pa.__version__
        key = sha256(repr(facts).encode()).hexdigest()[:32]
        suffix = Path(name).suffix
        ends = (".json", suffix, f".rejects{suffix}")
        counted, good, bad = made = [folder / f"{key}{end}" for end in ends]
        if all(each.is_file() for each in made):
            return Scored(files.read_json(counted), good, bad)
        if found := len(list(folder.glob(f"{key}-*.arrow"))):
            bar.console.print(f"{name}: {found} parts were scored by a run before", markup=False)
        total = pa.parquet.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        task = bar.add_task(name, total=total)
        tables = enumerate(batches(source, bundle.schema.missing, path))
        try:
            with closing(ahead(tables, scoring(source, folder / key, scorer, bundle))) as pairs:
                rows, renamed = write(pairs, good, bad, lambda rows: bar.advance(task, rows))
        except (pa.ArrowException, UnicodeDecodeError) as error:
            what = f"cannot be scored to a {suffix} file: {first_line(error)}"
            raise Failure(f"{format_source(source)} {what}") from None
    if renamed:
        what = f"{name}: the table has the usual names of answers, which are in"
        bar.console.print(what, ", ".join(map(repr, renamed)), markup=False, soft_wrap=True)
    files.write_json(counted, rows)
    for part in folder.glob(f"{key}-*.arrow"):
        part.unlink()
    return Scored(rows, good, bad)


Pair = tuple[pa.Table, pa.Table]  # rows, and their answers


def scoring(
    source: str, parts: Path, scorer: Scorer, bundle: Bundle
) -> Callable[[tuple[int, pa.Table]], Pair]:
    """Return the function that scores a numbered table, or reads what is kept of it in `parts`."""

    def work(numbered: tuple[int, pa.Table]) -> Pair:
        number, table = numbered
        part = parts.with_name(f"{parts.name}-{number}.arrow")
        if (answered := checkpoints.read(part, len(table))) is None:
            try:
                answered = predict(table, scorer, bundle)
            except Failure as failure:
                raise Failure(f"{format_source(source)}: {failure}") from None
            checkpoints.write(part, answered)
        return table, answered

    return work


def ahead(
    tables: Iterator[tuple[int, pa.Table]], work: Callable[[tuple[int, pa.Table]], Pair]
) -> Generator[Pair]:
    """Give what `work` makes of each table, in order, while threads work on the next ones."""
    waiting = deque[Future[Pair]]()
    with ThreadPoolExecutor(THREADS) as workers:
        for numbered in tables:
            waiting.append(workers.submit(work, numbered))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def write(
    pairs: Iterator[Pair], good: Path, bad: Path, bar: Callable[[int], None]
) -> tuple[list[int], list[str]]:
    """Write rows scored and rows rejected; return their numbers, and the names given to answers
    where the usual ones are columns of the table.
    """
    kind = WRITERS[good.suffix]
    renamed = list[str]()
    writers: list[pa.parquet.ParquetWriter | pa.csv.CSVWriter] = []
    rows = [0, 0]
    with ExitStack() as opened:
        for table, answered in pairs:
            tables = divide(flat(table) if kind is pa.csv.CSVWriter else table, answered)
            if not writers:
                both = zip((good, bad), tables, strict=True)
                writers = [opened.enter_context(kind(path, part.schema)) for path, part in both]
                renamed = [name for name in answered.column_names if name.endswith(OTHERWISE)]
            for number, (writer, part) in enumerate(zip(writers, tables, strict=True)):
                writer.write_table(part)
                rows[number] += part.num_rows
            bar(table.num_rows)
    checkpoints.settle(good)
    checkpoints.settle(bad)
    return rows, renamed
