"""Score: predict every row of a file or a folder; rows that break the contract are set aside.

Threads score while others are read and written. A run that is stopped leaves what was there.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

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


def score(source: str, target: str | Path) -> Outcome:
    """Write the champion's predictions for the rows of `source` to `target`: a file, or a folder.

    Rows that break the contract go to one beside it. Neither is there before both are whole.
    """
    source, target = storage.plain(source), storage.plain(str(target))
    place = storage.name_of(target)
    parts = partitions.parts_in(source)
    rejects = rejects_of(target)
    storage.refuse_overwriting(source, (target, rejects), parts is not None)
    names = {source: place.name} if parts is None else output_names(parts, source)
    bundle = open_bundle(Path(load_settings().bundle))
    with scored(names, source, parts or {}, target, bundle) as (counts, made):
        # The rejects first: where the predictions are, they are too. Nothing replaces a good output
        # if no row was scored.
        places = (rejects, target) if sum(good for good, _ in counts.values()) else (rejects,)
        for there in places:
            storage.publish(made[there], there, parts is not None)
    return outcome(counts, rejects)


def output_names(parts: Mapping[str, Part], source: str) -> dict[str, str]:
    return storage.output_names({name: part.place for name, part in parts.items()}, source)


def rejects_of(target: str) -> str:
    """Return where the rejected rows go, beside the predictions."""
    place = storage.name_of(target)
    return storage.sibling(target, f"{place.stem}.rejects{place.suffix}")


def outcome(counts: Mapping[str, Sequence[int]], rejects: str) -> Outcome:
    good, bad = (sum(each[place] for each in counts.values()) for place in (0, 1))
    return Outcome(good, bad, rejects)


@contextmanager
def scored(
    names: Mapping[str, str], source: str, parts: Mapping[str, Part], target: str, bundle: Bundle
) -> Iterator[tuple[dict[str, list[int]], dict[str, dict[str, Path]]]]:
    """Score a file, or parts of a folder, to files that are called by the values of `names`.

    Give how many rows of each were scored and rejected; and what goes to the target and beside it.
    """
    scorer = open_scorer(bundle)
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    bar = Progress(*columns, TextColumn("{task.completed:,} rows"), console=Console(stderr=True))
    counts: dict[str, list[int]] = {}
    made: dict[str, dict[str, Path]] = {target: {}, rejects_of(target): {}}
    with storage.workshop(target) as folder:
        asked = {name: part for name, part in parts.items() if name in names}
        with bar, partitions.unchanged(asked, source):
            for number, (name, output) in enumerate(names.items()):
                suffix = Path(output).suffix
                pair = [folder / f"{number}-{kind}{suffix}" for kind in ("good", "bad")]
                given, told = name, partitions.Keys()
                if name in parts:
                    given, told = parts[name].place, partitions.keys(name)
                counts[name] = score_file(given, output, pair, scorer, bundle, bar, told)
                for files, part in zip(made.values(), pair, strict=True):
                    files[output] = part
        yield counts, made


def score_file(
    source: str,
    name: str,
    parts: Sequence[Path],
    scorer: Scorer,
    bundle: Bundle,
    bar: Progress,
    told: Keys | None = None,
) -> list[int]:
    """Write rows scored and rows rejected to `parts`; return how many there are of each.

    The columns that folders' names tell are read by the model, and not written.
    """
    told = told or {}

    def work(table: pa.Table) -> Pair:
        try:
            return table.drop_columns(list(told)), predict(table, scorer, bundle)
        except Failure as failure:
            raise Failure(f"{format_source(source)}: {failure}") from None

    task = bar.add_task(name, total=None)
    rows = [0, 0]
    names: list[str] = []
    try:
        with local(source) as path:
            tables = Table(source, bundle.schema.missing, path, told)
            with closing(ahead(tables, work)) as pairs, writing(parts) as write:
                for table, answered in pairs:
                    names = names or answered.column_names
                    for place, part in enumerate(divide(table, answered)):
                        write(place, part)
                        rows[place] += len(part)
                    bar.advance(task, len(table))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        what = f"cannot be scored to a {parts[0].suffix} file: {first_line(error)}"
        raise Failure(f"{format_source(source)} {what}") from None
    if renamed := [one for one in names if one.endswith(OTHERWISE)]:
        what = f"{name}: the table has the usual names of answers, which are in"
        bar.console.print(what, ", ".join(map(repr, renamed)), markup=False, soft_wrap=True)
    return rows


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


def ahead(tables: Iterable[pa.Table], work: Callable[[pa.Table], Pair]) -> Generator[Pair]:
    """Give what `work` makes of each table, in order, while threads work on the next ones."""
    waiting = deque[Future[Pair]]()
    with ThreadPoolExecutor(THREADS) as workers:
        for table in tables:
            waiting.append(workers.submit(work, table))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
