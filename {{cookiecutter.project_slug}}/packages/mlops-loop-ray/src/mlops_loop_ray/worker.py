"""Worker: what runs in the cluster's processes."""

import json
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from mlops_loop.base.errors import Failure
from mlops_loop.base.project import Project, use
from mlops_loop.batch import storage
from mlops_loop.batch.score import score_file
from mlops_loop.data.source.read import Table, local
from mlops_loop.data.source.remote import reached
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.scorer import Scorer, open_scorer

from mlops_loop_ray.pieces import KINDS, Mark, Piece, Span

Files = dict[str, bytes]  # of the bundle, by their names


class Row(TypedDict):
    """A piece on its way to a worker, and back."""

    key: str
    source: str
    output: str
    keys: str  # as JSON: Ray makes one type of all that it sees in a column
    span: Span | None


class Answer(TypedDict):
    key: str
    rows: list[int]
    note: str
    failure: str
    code: int


class Worker:
    """A process that scores one piece after the other; it opens the model once, for the first."""

    def __init__(self, files: "ray.ObjectRef[Files]", folder: str, project: Project) -> None:
        use(project)
        self.files = files
        self.folder = folder
        self.model: tuple[Bundle, Scorer] | None = None
        self.source = ""
        self.path = Path()
        self.held = ExitStack()  # of a URL, the copy
        pa.set_cpu_count(1)  # Ray gives a worker one

    def __call__(self, row: Row) -> Answer:
        # Ray makes arrays of tuples.
        span = None if row["span"] is None else (int(row["span"][0]), int(row["span"][1]))
        keys = json.loads(row["keys"])
        piece = Piece(row["key"], row["source"], row["output"], keys, span)
        answer: Answer = {"key": piece.key, "rows": [], "note": "", "failure": "", "code": 1}
        try:
            with ExitStack() as opened:
                found, note = self.score(piece, opened)
            return answer | {"rows": found["rows"], "note": note}
        except Failure as failure:
            return answer | {"failure": str(failure), "code": failure.code}
        except OSError as error:
            return answer | {"failure": f"{piece.source}: {error}"}

    def score(self, piece: Piece, opened: ExitStack) -> tuple[Mark, str]:
        for place in (self.folder, piece.source):
            if "://" not in place and not Path(place).exists():
                what = "every node must see INPUT and OUTPUT, at a URL or in a shared folder"
                raise Failure(f"{place} is not there on {platform.node()}: {what}")
        self.model = bundle, scorer = self.model or opened_model(ray.get(self.files))
        copy = self.fetch(piece.source)
        table = Table(piece.source, bundle.schema.missing, copy, piece.keys, piece.span)
        made = Path(opened.enter_context(temporary(self.folder)))
        parts = [made / piece.part(kind) for kind in KINDS]
        found = score_file(table, parts, scorer, bundle, lambda _: None, threads=0)
        mark: Mark = {"rows": found.rows, "renamed": found.renamed}
        (made / f"{piece.key}.json").write_text(json.dumps(mark), "utf-8")
        for path in (*parts, made / f"{piece.key}.json"):  # the mark is the last
            storage.publish({"": path}, f"{self.folder}/{path.name}", False)
        return mark, found.note(piece.output)

    def fetch(self, source: str) -> Path:
        """Return the file; of a URL's pieces, a worker fetches the file once."""
        if source != self.source:
            self.held.close()
            self.path = self.held.enter_context(local(source))
            self.source = source
        return self.path


def opened_model(files: Files) -> tuple[Bundle, Scorer]:
    """Return the bundle and its scorer, which must answer the check rows as it did when made."""
    folder = Path(tempfile.mkdtemp(prefix="bundle-"))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    bundle = open_bundle(folder)
    return bundle, open_scorer(bundle)


def temporary(folder: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder to write to: on the disk that `folder` is on, unless that is a URL."""
    return tempfile.TemporaryDirectory(dir=None if "://" in folder else folder, prefix=".part-")


@ray.remote  # type: ignore[untyped-decorator]
def join(folder: str, names: list[str], whole: str) -> None:
    """Make one Parquet file of several, a row group at a time."""
    with temporary(folder) as made, reached(folder) as (system, place), ExitStack() as opened:
        path = Path(made) / whole
        writer: pq.ParquetWriter | None = None
        for name in names:
            with system.open(f"{place}/{name}", "rb") as file, pq.ParquetFile(file) as part:
                writer = writer or opened.enter_context(pq.ParquetWriter(path, part.schema_arrow))
                for group in range(part.num_row_groups):
                    writer.write_table(part.read_row_group(group))
        opened.close()
        storage.publish({"": path}, f"{folder}/{whole}", False)
