"""Score: predict every row of a file or a folder; rows that break the contract are set aside.

Threads score while others are read and written. A run that is stopped leaves what was there.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mlops_loop.base.compute import cluster
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source
from mlops_loop.base.settings import load_settings
from mlops_loop.batch import storage
from mlops_loop.batch.predict import OTHERWISE, divide, flat, predict
from mlops_loop.data.source import partitions
from mlops_loop.data.source.partitions import Keys, Part
from mlops_loop.data.source.read import Table, local
from mlops_loop.data.source.remote import first_line
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.scorer import Scorer, open_scorer

THREADS = min(4, os.cpu_count() or 1)  # that score; more would wait for the one that writes

Pair = tuple[pa.Table, pa.Table]  # rows, and their answers


class Outcome(NamedTuple):
    scored: int  # rows
    rejected: int
    rejects: str  # where the rejected rows are


class Given(NamedTuple):
    """A file that is scored."""

    place: str
    keys: Keys  # columns that its folders' names tell: read by the model, and not written


class Plan(NamedTuple):
    """What is read, and where its answers go."""

    source: str
    target: str
    rejects: str
    parts: dict[str, Part]  # files of a folder, as they were found
    given: dict[str, Given]  # by the name of their predictions
    is_folder: bool

    def unchanged(self) -> AbstractContextManager[None]:
        """Refuse files of a folder that vanish or change meanwhile."""
        return partitions.unchanged(self.parts, self.source)


class FileOutcome(NamedTuple):
    rows: list[int]  # scored, and rejected
    renamed: list[str]  # answers whose usual names the table has

    def note(self, name: str) -> str:
        what = f"{name}: the table has the usual names of answers, which are in"
        return f"{what} {', '.join(map(repr, self.renamed))}" if self.renamed else ""


def score(source: str, target: str | Path) -> Outcome:
    """Write the champion's predictions for the rows of `source` to `target`: a file, or a folder.

    Rows that break the contract go to one beside it. Neither is there before both are whole.
    """
    todo = plan(source, str(target))
    bundle = open_bundle(Path(load_settings().bundle))
    if on := cluster():
        open_scorer(bundle)  # what it refuses is not sent
        done: Outcome = on.score(todo, bundle)
        return done
    with scored(todo, bundle) as (counts, made):
        # The rejects first: where the predictions are, they are too. Nothing replaces a good output
        # if no row was scored.
        scored_some = any(good for good, _ in counts.values())
        for there in (todo.rejects, todo.target) if scored_some else (todo.rejects,):
            storage.publish(made[there], there, todo.is_folder)
    return outcome(counts, todo.rejects)


def plan(source: str, target: str, into: bool = False) -> Plan:
    """Return what is to be done. Raises Failure if it would overwrite something.

    `into`: a folder that score wrote may be there, to add to it.
    """
    source, target = storage.plain(source), storage.plain(target)
    place = storage.name_of(target)
    parts = partitions.parts_in(source)
    rejects = storage.sibling(target, f"{place.stem}.rejects{place.suffix}")
    storage.refuse_overwriting(source, (target, rejects), parts is not None, into)
    given = {place.name: Given(source, {})}
    if parts is not None:
        names = storage.output_names({name: part.place for name, part in parts.items()}, source)
        given = {
            output: Given(parts[name].place, partitions.keys(name))
            for name, output in names.items()
        }
    return Plan(source, target, rejects, parts or {}, given, parts is not None)


def outcome(counts: Mapping[str, Sequence[int]], rejects: str) -> Outcome:
    good, bad = (sum(each[place] for each in counts.values()) for place in (0, 1))
    return Outcome(good, bad, rejects)


@contextmanager
def scored(
    todo: Plan, bundle: Bundle
) -> Iterator[tuple[dict[str, list[int]], dict[str, dict[str, Path]]]]:
    """Score files, and give how many rows of each were scored and rejected, by the output's name;
    and the files that go to the target and beside it."""
    scorer = open_scorer(bundle)
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    bar = Progress(*columns, TextColumn("{task.completed:,} rows"), console=Console(stderr=True))
    counts: dict[str, list[int]] = {}
    made: dict[str, dict[str, Path]] = {todo.target: {}, todo.rejects: {}}
    with storage.workshop(todo.target) as folder:
        with bar, todo.unchanged():
            for number, (output, given) in enumerate(todo.given.items()):
                suffix = Path(output).suffix
                parts = [folder / f"{number}-{kind}{suffix}" for kind in ("good", "bad")]
                advance = partial(bar.advance, bar.add_task(output, total=None))
                with local(given.place) as path:
                    table = Table(given.place, bundle.schema.missing, path, given.keys)
                    found = score_file(table, parts, scorer, bundle, advance)
                if note := found.note(output):
                    bar.console.print(note, markup=False, soft_wrap=True)
                counts[output] = found.rows
                for files, part in zip(made.values(), parts, strict=True):
                    files[output] = part
        yield counts, made


def score_file(
    table: Table,
    parts: Sequence[Path],
    scorer: Scorer,
    bundle: Bundle,
    advance: Callable[[int], None],
    threads: int = THREADS,
) -> FileOutcome:
    """Write rows scored and rows rejected to `parts`."""
    source = format_source(table.source)

    def work(part: pa.Table) -> Pair:
        try:
            return part.drop_columns(list(table.keys)), predict(part, scorer, bundle)
        except Failure as failure:
            raise Failure(f"{source}: {failure}") from None

    rows = [0, 0]
    names: list[str] = []
    try:
        with closing(ahead(table, work, threads)) as pairs, writing(parts) as write:
            for given, answered in pairs:
                names = names or answered.column_names
                for place, part in enumerate(divide(given, answered)):
                    write(place, part)
                    rows[place] += len(part)
                advance(len(given))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        what = f"cannot be scored to a {parts[0].suffix} file: {first_line(error)}"
        raise Failure(f"{source} {what}") from None
    return FileOutcome(rows, [name for name in names if name.endswith(OTHERWISE)])


@contextmanager
def writing(parts: Sequence[Path]) -> Iterator[Callable[[int, pa.Table], None]]:
    """Give a function that adds a table to the part at a place."""
    writers: dict[int, pa.parquet.ParquetWriter | pa.csv.CSVWriter] = {}
    as_csv = parts[0].suffix == ".csv"
    kind = pyarrow.csv.CSVWriter if as_csv else pyarrow.parquet.ParquetWriter
    with ExitStack() as opened:

        def write(place: int, table: pa.Table) -> None:
            table = flat(table) if as_csv else table
            if place not in writers:
                writers[place] = opened.enter_context(kind(parts[place], table.schema))
            writers[place].write_table(table)

        yield write


def ahead(
    tables: Iterable[pa.Table], work: Callable[[pa.Table], Pair], threads: int
) -> Generator[Pair]:
    """Give what `work` makes of each table, in order, while threads work on the next ones."""
    if not threads:
        yield from map(work, tables)
        return
    waiting = deque[Future[Pair]]()
    with ThreadPoolExecutor(threads) as workers:
        for table in tables:
            waiting.append(workers.submit(work, table))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
