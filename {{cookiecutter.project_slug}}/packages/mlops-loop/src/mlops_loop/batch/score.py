"""Score: predict every row of a file or a folder; rows that break the contract are set aside.

Threads read, score and write at the same time. Answers are kept in parts beside the output until
all is whole: a run that was stopped is taken up where it was, unless the input or the model is
another one.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
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
from mlops_loop.batch.targets import output_names, refuse_overwriting
from mlops_loop.data.engine import ahead
from mlops_loop.data.source.read import batches, local
from mlops_loop.data.source.remote import first_line
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.scorer import Scorer, open_scorer

WRITERS = {".parquet": pyarrow.parquet.ParquetWriter, ".csv": pyarrow.csv.CSVWriter}


def write(
    pairs: Iterator[tuple[pa.Table, pa.Table]], good: Path, bad: Path, bar: Callable[[int], None]
) -> tuple[list[int], list[str]]:
    """Write tables with their answers to two files: rows scored, and rows rejected. Return their
    numbers, and the names that answers have because the usual ones are columns of the table.
    """
    kind = WRITERS[good.suffix]
    renamed = list[str]()
    writers: list[pa.parquet.ParquetWriter | pa.csv.CSVWriter] = []
    rows = [0, 0]
    with ExitStack() as open_files:
        for table, answered in pairs:
            tables = divide(flat(table) if kind is pa.csv.CSVWriter else table, answered)
            if not writers:
                both = zip((good, bad), tables, strict=True)
                writers = [open_files.enter_context(kind(path, part.schema)) for path, part in both]
                renamed = [name for name in answered.column_names if name.endswith(OTHERWISE)]
            for number, (writer, part) in enumerate(zip(writers, tables, strict=True)):
                writer.write_table(part)
                rows[number] += part.num_rows
            bar(table.num_rows)
    checkpoints.settle(good)
    checkpoints.settle(bad)
    return rows, renamed


class Scored(NamedTuple):
    rows: list[int]  # how many were scored, and how many were rejected
    scored: Path
    rejected: Path


@dataclass(frozen=True)
class Job:
    """One file to score, and the checkpoint files in `folder` that hold what is done of it."""

    source: str
    name: str
    folder: Path
    key: str  # of content, name, model and versions: another key is another job

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def path(self, end: str) -> Path:
        return self.folder / f"{self.key}{end}"

    @property
    def result(self) -> tuple[Path, Path, Path]:
        """The numbers of rows, the scored rows, and the rejected ones."""
        return self.path(".json"), self.path(self.suffix), self.path(f".rejects{self.suffix}")

    @property
    def parts(self) -> list[Path]:
        return list(self.folder.glob(f"{self.key}-*.arrow"))


def score_file(
    source: str, name: str, folder: Path, scorer: Scorer, bundle: Bundle, bar: Progress
) -> Scored:
    """Score one file into `folder`; return the numbers of rows and the files that hold them.

    What an earlier run has done there is taken over, if it had the same content, name and model.
    """
    with local(source) as path:
        facts = name, files.sha256(path), bundle.sha256, files.BATCH, pa.__version__
        job = Job(source, name, folder, sha256(repr(facts).encode()).hexdigest()[:32])
        counted, good, bad = job.result
        if counted.is_file() and good.is_file() and bad.is_file():
            return Scored(files.read_json(counted), good, bad)
        if found := len(job.parts):
            bar.console.print(f"{name}: {found} parts were scored by a run before", markup=False)
        total = pa.parquet.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        task = bar.add_task(name, total=total)
        tables = batches(source, bundle.schema.missing, path)
        try:
            with closing(ahead(enumerate(tables), scoring(job, scorer, bundle))) as pairs:
                rows, renamed = write(pairs, good, bad, lambda rows: bar.advance(task, rows))
        except (pa.ArrowException, UnicodeDecodeError) as error:
            what = f"cannot be scored to a {job.suffix} file: {first_line(error)}"
            raise Failure(f"{format_source(source)} {what}") from None
        if renamed:
            what = f"{name}: the table has the usual names of answers, which are in"
            bar.console.print(what, ", ".join(map(repr, renamed)), markup=False, soft_wrap=True)
        files.write_json(counted, rows)
        for part in job.parts:
            part.unlink()
    return Scored(rows, good, bad)


def scoring(
    job: Job, scorer: Scorer, bundle: Bundle
) -> Callable[[tuple[int, pa.Table]], tuple[pa.Table, pa.Table]]:
    """Return the function that scores a numbered part, or reads its checkpoint."""

    def work(numbered: tuple[int, pa.Table]) -> tuple[pa.Table, pa.Table]:
        number, table = numbered
        part = job.path(f"-{number}.arrow")
        if (answered := checkpoints.read(part, len(table))) is None:
            try:
                answered = predict(table, scorer, bundle)
            except Failure as failure:
                raise Failure(f"{format_source(job.source)}: {failure}") from None
            checkpoints.write(part, answered)
        return table, answered

    return work


class Outcome(NamedTuple):
    scored: int  # rows
    rejected: int
    rejects: str  # where the rejected rows are


def score(source: str, target: str | Path) -> Outcome:
    """Write the champion's predictions for the rows of `source` to `target`: a file, or a folder.

    Rows that break the contract go to a file or folder beside it. Neither is there before both are
    whole.
    """
    source = storage.plain(source)
    target = storage.plain(str(target))
    place = storage.name_of(target)
    found = storage.files_in(source)
    rejects = storage.sibling(target, f"{place.stem}.rejects{place.suffix}")
    refuse_overwriting(source, (target, rejects), found is not None)
    names = {source: place.name} if found is None else output_names(found, source)
    bundle = open_bundle(Path(load_settings().bundle))
    scorer = open_scorer(bundle)
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    bar = Progress(*columns, TextColumn("{task.completed:,} rows"), console=Console(stderr=True))
    with checkpoints.folder_of(target) as folder, bar:
        made = {
            output: score_file((found or {}).get(name, source), output, folder, scorer, bundle, bar)
            for name, output in names.items()
        }
        rejected = {name: result.rejected for name, result in made.items()}
        scored = {name: result.scored for name, result in made.items()}
        good, bad = (sum(result.rows[number] for result in made.values()) for number in (0, 1))
        # The rejects first: where the predictions are, they are too. Nothing replaces a good output
        # if no row was scored.
        for paths, there in ((rejected, rejects), (scored, target))[: 2 if good else 1]:
            if found is None:
                storage.publish_file(paths[place.name], there)
            else:
                storage.publish_folder(paths, there)
    return Outcome(good, bad, rejects)
