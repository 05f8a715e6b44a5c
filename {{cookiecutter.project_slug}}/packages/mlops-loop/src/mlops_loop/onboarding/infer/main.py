"""`schema infer`: read a table once, propose its contract, and adapt the project to it."""

import shlex
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from mlops_loop.base import files
from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BEHAVIOUR, DVC, PARAMS, SCHEMA
from mlops_loop.base.params import Params, Sql, format_source
from mlops_loop.base.project import current_project
from mlops_loop.base.terminal import open_console
from mlops_loop.contract.schema import Schema
from mlops_loop.contract.values import Task
from mlops_loop.data.profile import profiled
from mlops_loop.data.source.read import batches, opened
from mlops_loop.onboarding import git
from mlops_loop.onboarding.infer.adapt import (
    new_behaviour,
    new_params,
    new_pipeline,
    new_schema,
)
from mlops_loop.onboarding.infer.example import PYPROJECT, Removal, plan_removal
from mlops_loop.onboarding.infer.report import print_report
from mlops_loop.onboarding.infer.table import propose_table, with_shares


def infer(
    source: str | Sql, target: str, timestamp: str | None, task: Task | None, force: bool
) -> None:
    """Write schema.yaml for the source, and adapt the files that read it; remove the example.

    Tests of behaviour.yaml that do not fit the new contract are replaced by an example. Nothing is
    written if anything is wrong.
    """
    refuse_arguments(source, target, timestamp, force)
    name = format_source(source)
    written_source = as_written(source)
    console = Console(stderr=True)
    with console.status("reading and profiling"), opened(batches(source)) as arriving:
        known = profiled(arriving, index_columns(source))
        title = "query" if isinstance(source, Sql) else Path(name).name.split(".")[0] or "table"
        schema, proposals = propose_table(known, title, target, timestamp, task)
        params = new_params(written_source, schema)
        split_params = parse_yaml(params, str(PARAMS), Params).split
        schema = with_shares(schema, known, split_params)
    text = new_schema(schema, proposals, name)
    schema = parse_yaml(text, str(SCHEMA), Schema)
    tests, outcome = new_behaviour(schema)
    removal = plan_removal()
    pipeline = new_pipeline(written_source, schema, removal.deleted)
    written = {SCHEMA: text, PARAMS: params, DVC: pipeline}
    written |= {BEHAVIOUR: tests} if tests else {}
    for path, content in written.items():
        files.write_text(path, content)
    files.ACCEPTED.unlink(missing_ok=True)  # of the table before
    removal.carry_out()
    lock = Path("uv.lock")
    if PYPROJECT in removal.written and lock.is_file() and git.run("uv", "lock").returncode:
        removal.by_hand.append(f"{PYPROJECT} asks for less than {lock}: run `uv lock`")
    print_report(open_console(), schema, proposals, outcome)
    print_next(written_source, list(written), removal)


def refuse_arguments(source: str | Sql, target: str, timestamp: str | None, force: bool) -> None:
    if SCHEMA.exists() and not force:
        what = "to replace it, and what params.yaml reads, add --force"
        raise Failure(f"{SCHEMA} is there already; {what}")
    outputs = {path.resolve() for path in files.OUTPUTS}
    if isinstance(source, str) and Path(source).resolve() in outputs:
        raise Failure(f"{source} is written by the pipeline: keep your table elsewhere")
    if target == timestamp:
        raise Failure(f"{target!r} cannot be both target and timestamp")


def index_columns(source: str | Sql) -> list[str]:
    """Return the columns that pandas wrote as the index of the rows of a Parquet file."""
    if isinstance(source, Sql) or not source.endswith(".parquet") or not Path(source).is_file():
        return []
    written = pq.read_schema(source).pandas_metadata or {}
    return [name for name in written.get("index_columns", ()) if isinstance(name, str)]


def as_written(source: str | Sql) -> str | Sql:
    """Return a source as params.yaml names it: a file inside the project by its path from there."""
    if isinstance(source, Sql) or "://" in source:
        return source
    path = Path(source).resolve()
    inside = path.is_relative_to(Path.cwd())
    return (path.relative_to(Path.cwd()) if inside else path).as_posix()


def print_next(source: str | Sql, written: list[Path], removal: Removal) -> None:
    """Say which files were written and deleted, and what to do next."""
    print(f"written: {', '.join(map(str, [*written, *removal.written]))}")
    if removal.deleted:
        print(f"removed, with the example: {', '.join(map(str, removal.deleted))}")
    for task in removal.by_hand:
        print(f"by hand: {task}")
    inside = isinstance(source, str) and "://" not in source and not Path(source).is_absolute()
    path = Path(str(source))
    if inside and not Path(f"{path}.dvc").exists() and git.would_commit(path):
        quoted = shlex.quote(str(source))
        if git.is_tracked(path):
            print(f"next: git rm --cached {quoted}")
        print(f"next: uv run dvc add {quoted}")
    print(f"next: uv run {current_project().name} demo")
