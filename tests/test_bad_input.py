"""What goes wrong for a user: one line on how to mend it, an exit code, nothing half-written."""

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, copy
from test_pipeline import edit

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("bad input")]

HEADER = "scheduled_departure,flight,carrier"


@pytest.fixture(scope="module")
def project(pipeline: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy(pipeline, tmp_path_factory.mktemp("bad"))


def written(project: Project) -> dict[str, str]:
    """Return every file that the pipeline writes, and its content's hash."""
    folders = ("data", "build", "reports")
    paths = [path for folder in folders for path in (project.path / folder).rglob("*")]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}


@pytest.fixture
def attempt(project: Project) -> object:
    """Give a function that runs a command which must fail, and check what it leaves."""
    params, schema = (project.path / name for name in ("params.yaml", "schema.yaml"))
    before = params.read_text("utf-8"), schema.read_text("utf-8")

    def attempt(*command: str, code: int = 1, may_write: str = "-", **env: str) -> str:
        files = written(project)
        done = project.uv("--no-sync", *command, check=False, env=env)
        said = done.stderr.strip()
        assert done.returncode == code, f"{done.stdout}\n{said}"
        assert "Traceback" not in done.stdout + said
        after = written(project)
        changed = {path for path in files | after if files.get(path) != after.get(path)}
        assert not [path for path in changed if may_write not in path]
        return said

    yield attempt
    params.write_text(before[0], "utf-8")
    schema.write_text(before[1], "utf-8")


Attempt = Callable[..., str]


def stage(project: Project, name: str) -> tuple[str, ...]:
    return project.slug, name


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "error: own.csv is not there"),
        ("", "error: own.csv is empty: a header and rows are needed"),
        (HEADER, "error: own.csv has no rows: a table with rows is needed"),
        (
            f"{HEADER}\n2012-12-31,1,UA\n",
            "error: own.csv has no row from 2013-01-01 to 2014-01-01: see params.yaml",
        ),
        ("a,b\n1,2\n", "error: own.csv has none of the columns in schema.yaml"),
    ],
)
def test_source(project: Project, attempt: Attempt, content: str | None, line: str) -> None:
    source = project.path / "own.csv"
    source.unlink(missing_ok=True)
    if content is not None:
        source.write_text(content, "utf-8")
    edit(project, "ingest", source="own.csv")
    assert attempt(*stage(project, "ingest")) == line


def test_data_that_breaks_the_contract(project: Project, attempt: Attempt) -> None:
    """All that is wrong is said, one line for each."""
    change = (
        "table.head(5).rename(columns={'carrier': 'airline'})"
        ".assign(distance='far', pressure=float('nan'), dest='Nowhere')"
    )
    raw = project.path / "data/raw.parquet"
    kept = raw.read_bytes()
    script = (
        f"import pandas as pd; table = pd.read_parquet('{raw}'); ({change}).to_parquet('{raw}')"
    )
    project.uv("--no-sync", "python", "-c", script)
    try:
        first, *others = attempt(
            *stage(project, "validate"), code=3, may_write="reports"
        ).splitlines()
    finally:
        raw.write_bytes(kept)
    assert first.startswith("refused: the data breaks schema.yaml: ")
    for said in (
        "carrier: column to exist",
        "distance: column values to be of type number, 5 rows, for example far",
        "pressure: column values to not be null, allowed in 99.00%, 5 rows",
        "5 rows, for example Nowhere",
        "the table: row count to be enough, min_rows 10000",
    ):
        assert any(said in line for line in others), said


def test_bad_data_stops_the_pipeline(project: Project, attempt: Attempt) -> None:
    schema = project.path / "schema.yaml"
    schema.write_text(schema.read_text("utf-8").replace("maximum: 6000", "maximum: 600"), "utf-8")
    said = attempt("dvc", "repro", code=255, may_write="/")
    assert "exited with 3" in said
    assert "distance: column values to be between" in said
    said = attempt(project.slug, "demo", code=3, may_write="/")
    assert said.endswith("refused: the pipeline stopped, see above")
    project.uv("--no-sync", "dvc", "checkout", "--force")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9"),
        ("MLFLOW_REGISTRY_URI", "http://somebody:secret@127.0.0.1:9"),
        ("PREDICTION_LOG_URL", "postgresql+psycopg://somebody:secret@127.0.0.1:9/log"),
    ],
)
def test_the_demo_does_not_play_on_a_shared_server(
    project: Project, attempt: Attempt, name: str, url: str
) -> None:
    said = attempt(project.slug, "demo", **{name: url})
    assert said.startswith(f"error: {name} names a server: the demo would promote")
    assert "secret" not in said


def test_an_empty_test_window(project: Project, attempt: Attempt) -> None:
    edit(project, "split", validation_end="2014-01-01")
    said = attempt(*stage(project, "split"))
    assert said.startswith("error: the test window has 0 rows")


def test_an_output_folder_that_is_none(project: Project, attempt: Attempt) -> None:
    build = project.path / "build"
    build.rename(project.path / "kept")
    build.write_text("not a folder", "utf-8")
    try:
        assert attempt(*stage(project, "train")).count("\n") == 0
    finally:
        build.unlink()
        (project.path / "kept").rename(build)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_an_unreachable_tracking_server(project: Project, attempt: Attempt, name: str) -> None:
    uri = "http://somebody:secret@127.0.0.1:9"
    said = attempt(*stage(project, name), may_write="reports", MLFLOW_TRACKING_URI=uri)
    assert said.startswith("error: MLflow at http://127.0.0.1:9: ")
    assert "secret" not in said
    assert said.endswith("(see MLFLOW_TRACKING_URI)")


def test_a_taken_port_and_a_missing_or_changed_bundle(project: Project, attempt: Attempt) -> None:
    serve = project.slug, "serve", "--port"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = attempt(*serve, port, BUNDLE="build/bundle")
        assert said.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert attempt(*serve, port, BUNDLE="nowhere").startswith(
        "error: there is no bundle in nowhere"
    )
    graph = project.path / "build/bundle/model.onnx"
    kept = graph.read_bytes()
    graph.write_bytes(kept[:-1])
    try:
        said = attempt(*serve, port, code=3, BUNDLE="build/bundle")
    finally:
        graph.write_bytes(kept)
    assert said.startswith(f"refused: {Path('build/bundle/model.onnx')} is missing or was changed")
    manifest = project.path / "build/bundle/bundle.json"
    kept = manifest.read_bytes()
    manifest.write_bytes(b"{}")
    try:
        said = attempt(*serve, port, code=3, BUNDLE="build/bundle")
    finally:
        manifest.write_bytes(kept)
    assert said == f"refused: {Path('build/bundle/bundle.json')} was changed after its export"


def test_serving_to_others_needs_keys(project: Project, attempt: Attempt) -> None:
    said = attempt(project.slug, "serve", "--host", "0.0.0.0", BUNDLE="build/bundle")
    assert said.startswith("error: API_KEYS must be set to serve on 0.0.0.0")


def test_outside_a_project(project: Project, tmp_path: Path) -> None:
    command = project.path / f".venv/bin/{project.slug}"
    done = Project(tmp_path, project.slug, project.package, "").run(command, "promote", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is this the project's folder" in done.stderr
