"""compute=ray: the verbs on a real cluster of three nodes, some of which die in the middle."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from clusters import need_crds
from conftest import LEAKS, Bake, Project, copy_environment, execute
from custom_resources import problems
from servers import free_port, object_store, web

NODES = Path(__file__).parent / "standins/ray/nodes.py"
# On Linux, too, it is this that keeps Ray to the loopback interface.
QUIET = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
COLUMN = "origin"  # which may not be missing
pytestmark = pytest.mark.xdist_group("ray")
slow = pytest.mark.slow


@dataclass
class Nodes:
    """A running cluster."""

    process: subprocess.Popen[str]
    env: dict[str, str]

    def ask(self, line: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        print(line, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()


@contextmanager
def nodes(project: Project, count: int, env: dict[str, str]) -> Iterator[Nodes]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    clean = {key: value for key, value in clean.items() if key != "AWS_CA_BUNDLE"} | env
    command = project.path / ".venv/bin/python", NODES, str(count)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=clean) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
        try:
            yield Nodes(process, env | {"RAY_ADDRESS": address})
        finally:
            process.communicate()


@pytest.fixture(scope="module")
def project(
    bake: Bake, pipeline: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """Give a project with compute=ray, and the champion of the default one."""
    made = bake(lock=True, compute="ray")
    copy_environment(pipeline, made)
    made.run("uv", "sync")
    for name in ("build", "data", ".mlflow", "dvc.lock"):
        there = pipeline.path / name
        copy = shutil.copytree if there.is_dir() else shutil.copy
        copy(there, made.path / name)
    yield made
    shutil.rmtree(made.path)


@pytest.fixture(scope="module")
def storage() -> Iterator[dict[str, str]]:
    """Give what leads to an S3 API."""
    with object_store() as url:
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "tester",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@pytest.fixture(scope="module")
def cluster(project: Project, storage: dict[str, str]) -> Iterator[Nodes]:
    with nodes(project, 2, QUIET | storage) as running:
        yield running


@pytest.fixture(scope="module")
def tables(project: Project) -> Path:
    """Return a folder with tables of every format, some rows of which break the contract."""
    folder = project.path / "tables"
    partition = folder / f"{COLUMN}=JFK"  # whose name tells what its file does not
    partition.mkdir(parents=True)
    rows = pq.read_table(project.path / "data/test.parquet")
    rows = pa.concat_tables([rows] * (600_000 // len(rows) + 1)).slice(0, 600_000)
    rows = rows.append_column("row number", pa.array(range(len(rows))))
    place = rows.column_names.index(COLUMN)
    spoilt = [
        None if row % 1000 == 7 else value for row, value in enumerate(rows[COLUMN].to_pylist())
    ]
    rows = rows.set_column(place, COLUMN, pa.array(spoilt, pa.string()))
    # Large enough for two pieces.
    options: dict[str, Any] = {"compression": "NONE", "use_dictionary": False}
    pq.write_table(rows, folder / "large.parquet", row_group_size=100_000, **options)
    pq.write_table(rows.slice(0, 3000).drop_columns([COLUMN]), partition / "a.parquet")
    rows.slice(0, 2000).to_pandas().to_csv(folder / "b.csv.gz", index=False)
    lines: dict[str, Any] = {"orient": "records", "lines": True, "date_format": "iso"}
    rows.slice(0, 1000).to_pandas().to_json(folder / "c.jsonl", **lines)
    return folder


@pytest.fixture(scope="module")
def expected(project: Project, tables: Path) -> Path:
    """Return what is scored without a cluster."""
    run(project, {}, "score", "tables", "expected")
    return project.path / "expected"


def run(
    project: Project, env: dict[str, str], *words: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return project.run(f".venv/bin/{project.slug}", *words, env=QUIET | env, check=check)


def same(found: Path, expected: Path) -> None:
    """The same files with the same rows in the same order."""
    for suffix in ("", ".rejects"):
        there, wanted = Path(f"{found}{suffix}"), Path(f"{expected}{suffix}")
        names = sorted(path.relative_to(wanted) for path in wanted.rglob("*.*"))
        assert sorted(path.relative_to(there) for path in there.rglob("*.*")) == names
        for name in names:
            if name.suffix == ".parquet":
                assert pq.read_table(there / name).equals(pq.read_table(wanted / name)), name
            else:
                assert (there / name).read_bytes() == (wanted / name).read_bytes(), name


def background(project: Project, env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    pipe = subprocess.PIPE
    command = str(project.path / f".venv/bin/{project.slug}"), *words
    options: dict[str, Any] = {"cwd": project.path, "stdout": pipe, "stderr": pipe, "text": True}
    return subprocess.Popen(command, env=clean | QUIET | env, **options)


def wait_for_a_mark(project: Project, output: str, process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if list((project.path / f".scoring-{output}").glob("*.json")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail("no piece is done")


# Scoring


@slow
def test_answers_are_those_without_a_cluster(
    project: Project, cluster: Nodes, expected: Path
) -> None:
    done = run(project, cluster.env, "score", "tables", "scored")
    same(project.path / "scored", expected)
    assert "605,397 rows scored: scored\n603 rows rejected: scored.rejects\n" in done.stdout
    assert not list(project.path.glob(".scoring-*"))
    run(project, cluster.env, "score", "tables/large.parquet", "alone.parquet")
    alone = pq.read_table(project.path / "alone.parquet")
    assert alone.equals(pq.read_table(expected / "large.parquet"))


@slow
def test_a_worker_and_a_node_die_and_nothing_is_lost_or_doubled(
    project: Project, cluster: Nodes, expected: Path
) -> None:
    cluster.ask("add")
    process = background(project, cluster.env, "score", "tables", "survived")
    wait_for_a_mark(project, "survived", process)
    busy = execute("pgrep", "-f", r"^ray::MapWorker\(Map\(Worker\)\)\.", cwd=project.path).stdout
    mine = [int(one) for one in busy.split() if is_below(int(one), cluster.process.pid)]
    if mine:  # else all is done but for the last move
        os.kill(mine[0], signal.SIGKILL)
    cluster.ask("kill")
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert "605,397 rows scored" in out
    same(project.path / "survived", expected)


def is_below(process: int, ancestor: int) -> bool:
    """Whether a process descends from another, so that no other test's cluster is hit."""
    while process > 1:
        if process == ancestor:
            return True
        found = Path(f"/proc/{process}/stat")
        process = int(found.read_text().rpartition(")")[2].split()[1]) if found.exists() else 0
    return False


@slow
def test_a_run_that_was_stopped_goes_on(project: Project, cluster: Nodes, expected: Path) -> None:
    process = background(project, cluster.env, "score", "tables", "resumed")
    wait_for_a_mark(project, "resumed", process)
    process.kill()
    process.communicate()
    assert not (project.path / "resumed").exists()
    work = project.path / ".scoring-resumed"
    marks = {path.name: path.stat().st_mtime_ns for path in work.glob("*.json")}
    one = work / min(marks)
    rows = json.loads(one.read_text())["rows"]
    one.write_text(json.dumps({"rows": [rows[0] + 1, rows[1]], "renamed": []}))
    done = run(project, cluster.env, "score", "tables", "resumed")
    assert f"{len(marks)} of 5 pieces are done already" in done.stderr
    assert "605,398 rows scored" in done.stdout  # of that piece, what the mark says
    same(project.path / "resumed", expected)


@slow
def test_object_storage(
    project: Project, cluster: Nodes, storage: dict[str, str], expected: Path
) -> None:
    code = f"""
import s3fs
store = s3fs.S3FileSystem(endpoint_url={storage["AWS_ENDPOINT_URL"]!r})
store.mkdir("bucket")
store.put("tables/", "bucket/in/", recursive=True)
"""
    python = project.path / ".venv/bin/python"
    project.run(python, "-c", code, env=storage)
    run(project, cluster.env, "score", "s3://bucket/in", "s3://bucket/out/scored")
    code = f"""
import s3fs
store = s3fs.S3FileSystem(endpoint_url={storage["AWS_ENDPOINT_URL"]!r})
print(sorted(set(store.ls("bucket/out"))))
store.get("bucket/out/", "fetched", recursive=True)
"""
    listed = project.run(python, "-c", code, env=storage).stdout.strip()
    assert listed == "['bucket/out/scored', 'bucket/out/scored.rejects']"
    same(project.path / "fetched/scored", expected)


# What is refused


@slow
def test_no_cluster_is_one_line(project: Project, tmp_path: Path) -> None:
    with web(tmp_path) as url:
        for address, what in (
            (f"127.0.0.1:{free_port()}", "Connection refused; a Ray cluster must answer there"),
            (url.removeprefix("http://"), "what answers is no Ray cluster"),
            (url, "must be auto or HOST:PORT"),
            ("ray://127.0.0.1:10001", "must be auto or HOST:PORT"),
        ):
            env = {"RAY_ADDRESS": address}
            done = run(project, env, "score", "data/test.parquet", "no.parquet", check=False)
            assert done.returncode == 1
            assert re.fullmatch(f"error: RAY_ADDRESS={re.escape(address)}.*\n", done.stderr)
            assert what in done.stderr
    assert not list(project.path.glob("*no.*"))


@slow
def test_a_cluster_of_another_version_is_one_line(project: Project) -> None:
    with nodes(project, 0, QUIET) as running:
        for word, version in (("python", "3.9.0"), ("ray", "2.0.0")):
            running.ask(f"other {word} {version}")
            words = "score", "data/test.parquet", "no.parquet"
            done = run(project, running.env, *words, check=False)
            assert done.returncode == 1
            (line,) = done.stderr.splitlines()
            assert version in line
            assert "Version mismatch" in line
            assert line.endswith("Use the same image for all.")
    assert not list(project.path.glob("*no.*"))


@slow
def test_a_mistake_in_one_file_is_one_line(project: Project, cluster: Nodes) -> None:
    folder = project.path / "mistaken"
    folder.mkdir()
    rows = pq.read_table(project.path / "data/test.parquet").slice(0, 10)
    pq.write_table(rows.drop_columns([COLUMN]), folder / "a.parquet")
    done = run(project, cluster.env, "score", "mistaken", "no", check=False)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert f"mistaken/a.parquet: the column '{COLUMN}' is missing" in line
    assert not (project.path / "no").exists()
    assert not list(project.path.glob(".scoring-*"))


# Searches, and joblib

PARALLEL = """
import os, json, joblib
from flight_delays.project import PROJECT
from mlops_loop.base.project import current_project, use
from mlops_loop.base.compute import cluster
use(PROJECT)

def where(number):
    import ray
    env = list(ray.get_runtime_context().runtime_env)
    return [number, current_project().name, os.getpid(), env]

with cluster().parallel():
    found = joblib.Parallel()(joblib.delayed(where)(number) for number in range(20))
print(json.dumps([found, os.getpid()]))
"""


@slow
def test_joblib_runs_on_the_cluster(project: Project, cluster: Nodes) -> None:
    done = project.uv("python", "-c", PARALLEL, env=cluster.env)
    found, here = json.loads(done.stdout.splitlines()[-1])
    assert [number for number, _, _, _ in found] == list(range(20))
    assert {name for _, name, _, _ in found} == {project.slug}
    assert here not in {process for _, _, process, _ in found}
    assert all(env == ["env_vars"] for _, _, _, env in found)  # no folder is sent


@slow
def test_scoring_loads_nothing_that_trains(project: Project) -> None:
    code = "import sys, mlops_loop.batch.score, mlops_loop_ray.compute; print(*sys.modules)"
    done = project.run(project.path / ".venv/bin/python", "-c", code)
    assert {"mlflow", "sklearn"}.isdisjoint(done.stdout.split())


TRIALS = """
import json, mlflow, optuna
from flight_delays.project import PROJECT
from mlops_loop.base.project import use
from mlops_loop.base.settings import load_settings
from mlops_loop.tracking.session import session
from mlops_loop.training.tune import Search
use(PROJECT)
(name,) = optuna.get_all_study_names("sqlite:///tune.db")
trials = optuna.load_study(study_name=name, storage="sqlite:///tune.db").trials
with session(load_settings()):
    runs = mlflow.search_runs()
runs = runs.set_index("tags.mlflow.runName")["metrics.log_loss"].to_dict()
search = Search()
best = min(trials, key=lambda one: one.value)
alone = search.evaluate(best.user_attrs["settings"])
print(json.dumps([[one.value for one in trials], runs, alone, best.user_attrs["settings"]]))
"""


@slow
def test_trials_run_on_the_cluster(project: Project, cluster: Nodes) -> None:
    params = project.path / "params.yaml"
    text = params.read_text("utf-8")
    text = text.replace("model: gradient_boosting", "model: logistic_regression")
    text = text.replace("max_rows: 1000000", "max_rows: 2000").replace("C: 1.0", "C: 1.0e-7")
    params.write_text(text, "utf-8")
    done = run(project, cluster.env, "tune", "--trials", "3")
    assert "tune: 3 of 3, best log_loss" in done.stdout
    run(project, cluster.env, "tune", "--trials", "1")  # it goes on with the same study
    told = project.run(project.path / ".venv/bin/python", "-c", TRIALS).stdout
    values, runs, alone, settings = json.loads(told.splitlines()[-1])
    assert len(values) == 4
    assert len(set(values)) == 4
    assert {f"trial {number}": value for number, value in enumerate(values)}.items() <= runs.items()
    assert min(values) == pytest.approx(alone)
    written = yaml.safe_load(params.read_text("utf-8"))["train"]["logistic_regression"]
    assert written["C"] == settings["C"]


# The page


@slow
def test_the_page_s_commands(project: Project) -> None:
    port = free_port()
    page = (project.path / "docs/ray.md").read_text("utf-8").replace("6379", str(port))
    start, use = re.findall(r"```sh\n(export .*?)```", page, re.DOTALL)
    scored = "\n".join(line for line in use.splitlines() if " tune " not in line)
    shell: dict[str, Any] = {"cwd": project.path, "start_new_session": True}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    command = start.replace("uv run ray", "exec .venv/bin/ray")
    with subprocess.Popen(("sh", "-c", command), env=clean | QUIET, **shell) as head:
        try:
            for _ in range(600):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert head.poll() is None
                time.sleep(0.1)
            done = project.run("sh", "-ec", scored)
            assert " rows scored: predictions.parquet" in done.stdout
        finally:
            head.terminate()  # with all that it started


# Manifests


def test_manifests_are_what_the_definitions_allow(bake: Bake) -> None:
    folder = need_crds()
    project = bake(compute="ray")
    for path in sorted((project.path / "deploy/ray").glob("*.yaml")):
        documents = list(yaml.safe_load_all(path.read_text("utf-8")))
        (job,) = [one for one in documents if one["kind"] == "RayJob"]
        assert problems(folder, documents) == []
        assert problems(folder, [job | {"spec": job["spec"] | {"entrypont": "x"}}])
