"""The default project, driven through its own commands as its user would."""

import csv
import hashlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import Project, copy, files, serving

pytestmark = pytest.mark.slow

# What a user would look up, in the project's own environment.
FIND_RUN = """
import hashlib, json, mlflow, pathlib
mlflow.set_tracking_uri("sqlite:///.mlflow/mlflow.db")
model = hashlib.sha256(pathlib.Path("build/model.skops").read_bytes()).hexdigest()
client = mlflow.MlflowClient()
experiments = [found.experiment_id for found in client.search_experiments()]
(run,) = client.search_runs(experiments, f"tags.model_sha256 = '{model}'")
(version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
champion = client.get_model_version_by_alias(version.name, "champion").version
info = mlflow.models.get_model_info(run.data.tags["model_uri"])
print(json.dumps([
    run.data.params,
    run.data.metrics,
    run.data.tags,
    champion == version.version,
    [(used.dataset.name, used.dataset.digest) for used in run.inputs.dataset_inputs],
    info.signature.inputs.input_names(),
    [file.path for file in client.list_artifacts(run.info.run_id, "evaluation")],
    sorted(info.flavors),
]))
"""
HELD_OUT = """
import json, pandas as pd, yaml
columns = yaml.safe_load(open("schema.yaml", encoding="utf-8"))["columns"]
roles = {n: c.get("role", "feature") for n, c in columns.items() if not c.get("derived")}
inputs = [name for name, role in roles.items() if role in ("feature", "input")]
table = pd.read_parquet("data/test.parquet")[inputs].sample(ROWS, random_state=0)
print(table.to_json(orient="records", date_format="iso", date_unit="s"))
"""
STAGES = ["ingest", "validate", "split", "train", "evaluate", "export"]
PAGES = ["reports/data/validation.html", "reports/evaluation.html"]


def edit(project: Project, section: str, **values: object) -> None:
    """Change values of a section of params.yaml."""
    path = project.path / "params.yaml"
    params = yaml.safe_load(path.read_text("utf-8"))
    params[section] |= values
    path.write_text(yaml.safe_dump(params, sort_keys=False), "utf-8")


def open_gates(project: Project) -> None:
    """Switch off what other tests are about and takes time: any bundle may be promoted."""
    gates = yaml.safe_load((project.path / "params.yaml").read_text("utf-8"))["gates"]
    edit(project, "gates", **dict.fromkeys(gates.keys() - {"max_rows", "parity"}))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tamper(project: Project) -> None:
    """Change the candidate's card and seal the bundle again: as good as any, but not built."""
    bundle = project.path / "build/bundle"
    with (bundle / "card.md").open("a") as card:
        card.write("\nTrust me.\n")
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    manifest["files"]["card.md"] = sha256(bundle / "card.md")
    (bundle / "bundle.json").write_text(json.dumps(manifest), "utf-8")


def metrics(project: Project) -> dict[str, dict[str, float]]:
    shown = json.loads(project.uv("dvc", "metrics", "show", "--json").stdout)
    return shown[""]["data"]["reports/metrics.json"]["data"]  # type: ignore[no-any-return]


def predict(address: str, rows: list[dict[str, object]], **headers: str) -> httpx.Response:
    return httpx.post(f"{address}/v1/predict", json={"rows": rows}, headers=headers, timeout=30)


def held_out(project: Project, rows: int) -> list[dict[str, object]]:
    """Return rows of the test window as a client would send them."""
    script = HELD_OUT.replace("ROWS", str(rows))
    return json.loads(project.uv("python", "-c", script).stdout)  # type: ignore[no-any-return]


def latest(project: Project) -> dict[str, Any]:
    """Return what the monitor found last."""
    found: dict[str, Any] = json.loads(
        (project.path / "reports/monitor/latest.json").read_text("utf-8")
    )
    return found


@contextmanager
def listening(told: list[dict[str, object]]) -> Iterator[str]:
    """Run a webhook that keeps what it is told; give its URL."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()


def test_the_model_beats_the_naive_baseline(pipeline: Project) -> None:
    found = metrics(pipeline)
    print(found)
    assert found["test"]["roc_auc"] >= 0.68
    assert found["test"]["roc_auc"] > found["baseline"]["roc_auc"] + 0.05
    for name in ("average_precision", "brier", "log_loss", "calibration_error"):
        assert name in found["test"]


def test_a_second_run_does_nothing(pipeline: Project) -> None:
    said = pipeline.uv("dvc", "repro").stdout
    assert "Running stage" not in said
    assert "up to date" in said


@pytest.mark.parametrize(
    ("section", "values", "first"),
    [
        ("evaluate", {"calibration_bins": 5}, "evaluate"),
        ("train", {"seed": 1}, "train"),
        ("split", {"train_end": "2013-08-01"}, "validate"),
        ("gates", {"champion": None, "max_rows": 1000}, None),
        ("monitor", {"days": 1}, None),
    ],
)
def test_a_parameter_reruns_only_what_depends_on_it(
    pipeline: Project, tmp_path: Path, section: str, values: dict[str, object], first: str | None
) -> None:
    project = copy(pipeline, tmp_path)
    edit(project, section, **values)
    dvc = pipeline.path / ".venv/bin/dvc"  # only asked, so the environment need not be made again
    status = json.loads(project.run(dvc, "status", "--json").stdout)
    assert first is None or first in status
    assert set(status) <= set(STAGES[STAGES.index(first) :] if first else [])


@pytest.mark.rare  # the tutorial does the like
def test_experiments_plots_and_a_refused_candidate(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path, promoted=True)
    project.uv("dvc", "exp", "run", "--name", "plain", "-S", "train.model=logistic_regression")
    table = list(csv.DictReader(StringIO(project.uv("dvc", "exp", "show", "--csv").stdout)))
    models = {row["Experiment"]: row["train.model"] for row in table}
    assert models["plain"] == "logistic_regression"
    assert "up to date" not in project.uv("dvc", "metrics", "diff").stdout
    refused = project.uv(project.slug, "promote", check=False)
    assert refused.returncode == 3, refused.stderr
    assert "version 2 stays a challenger" in refused.stderr
    assert "champion" in refused.stderr
    promotion = json.loads((project.path / "build/champion/promotion.json").read_text("utf-8"))
    assert promotion["version"] == "1"
    plots = json.loads(project.uv("dvc", "plots", "show", "--json").stdout)["data"]
    assert {"ROC", "Precision and recall", "Calibration", "Confusion"} <= set(plots)
    project.uv("dvc", "plots", "show")


def test_a_run_is_found_from_the_model_file(pipeline: Project) -> None:
    found = json.loads(pipeline.uv("python", "-c", FIND_RUN).stdout.splitlines()[-1])
    params, measured, tags, is_champion, datasets, inputs, plots, flavors = found
    assert params["estimator.name"] == "HistGradientBoostingClassifier"
    assert measured["test.roc_auc"] == metrics(pipeline)["test"]["roc_auc"]
    assert tags["git_commit"].startswith(pipeline.run("git", "rev-parse", "HEAD").stdout.strip())
    assert is_champion
    assert datasets == [["train", tags["data_sha256"][:32]]]
    assert {"carrier", "distance"} <= set(inputs)
    assert {"evaluation/roc.png", "evaluation/confusion.csv"} <= set(plots)
    assert flavors == ["python_function"]  # skops and the contract, no pickle


def test_pages_need_no_network(pipeline: Project) -> None:
    for page in (*PAGES, "build/champion/card.html"):
        text = (pipeline.path / page).read_text("utf-8")
        assert "<table" in text, page
        assert "http" not in text, page
    pictures = {path.stem for path in (pipeline.path / "reports/plots").glob("*.png")}
    assert pictures >= {"roc", "calibration", "importance", "dependence"}
    page = (pipeline.path / PAGES[1]).read_text("utf-8")
    assert page.count("data:image/png;base64,") == len(pictures)


def test_the_bundle_says_what_it_was_made_of(pipeline: Project) -> None:
    bundle = pipeline.path / "build/bundle"
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    # Seldon's agent writes into model-settings.json.
    assert set(manifest["files"]) == files(bundle) - {"bundle.json", "model-settings.json"}
    samples = {"reference.parquet", "held_out.parquet"}
    assert {"model.onnx", "schema.yaml", "card.md", *samples} <= set(manifest["files"])
    assert {"card.html", "plots/calibration.png"} <= set(manifest["files"])
    assert manifest["params"]["train"]["model"] == "gradient_boosting"
    assert set(manifest["data_sha256"]) == {"train.parquet", "test.parquet"}
    assert 0 < manifest["threshold"] < 1
    assert "observed" in (bundle / "card.md").read_text("utf-8")


def test_the_serving_environment_is_small_and_serves(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path, promoted=True)
    rows = held_out(project, 1000)
    venv = tmp_path / "serve"
    env = {"UV_PROJECT_ENVIRONMENT": str(venv)}
    project.run("uv", "sync", "--frozen", "--no-default-groups", "--group", "serve", env=env)
    listed = project.run("uv", "pip", "list", "--python", venv, "--format", "json").stdout
    installed = {package["name"] for package in json.loads(listed)}
    print(f"{len(installed)} packages")
    unwanted = {"mlflow", "dvc", "evidently", "great-expectations", "pandas", "scikit-learn"}
    assert not installed & (unwanted | {"pyarrow", "skops", "skl2onnx", "matplotlib"})

    # ONNX Runtime reports on its use unless told not to: what it would send, it keeps in ~/.cache.
    home = tmp_path / "home"
    load = f"from {project.package}.project import PROJECT; from mlops_loop.base import project; "
    load += "project.use(PROJECT); from mlops_loop.serving.app import create_app; create_app()"
    alone = "env", "-u", "CI", "-u", "XDG_CACHE_HOME", f"HOME={home}", "BUNDLE=build/bundle"
    project.run(*alone, venv / "bin/python", "-c", load)
    assert not list(home.rglob("*onnxruntime*"))

    command = str(next(venv.glob(f"*/{project.slug}*"))), "serve"
    with serving(project, *command, API_KEYS="test:secret") as address:
        assert httpx.get(f"{address}/health/ready").json()["model_version"] == "1"
        assert httpx.get(f"{address}/health/live").status_code == 200
        assert httpx.get(f"{address}/docs").status_code == 200
        assert predict(address, rows[:1]).status_code == 401
        answer = predict(address, rows, **{"X-API-Key": "secret"}).json()
        model = httpx.get(f"{address}/v1/model", headers={"X-API-Key": "secret"}).json()
    assert model["promotion"]["git_commit"]
    assert answer["model_version"] == "1"
    first = answer["predictions"][0]
    assert set(first) == {"id", "label", "probabilities"}
    assert set(first["probabilities"]) == {"late", "on_time"}
    with sqlite3.connect(project.path / "predictions.db") as log:
        stored = {name for (name,) in log.execute("SELECT id FROM predictions")}
    assert stored == {prediction["id"] for prediction in answer["predictions"]}

    assert "nothing to report" in project.uv(project.slug, "monitor").stdout
    found = latest(project)
    assert (found["rows"], found["verdicts"]) == (1000, [])
    assert 'src="http' not in (project.path / found["report"]).read_text("utf-8")
    edit(project, "monitor", min_rows=5000)
    few = project.uv(project.slug, "monitor", check=False)
    assert few.returncode == 3
    assert "not judged, drift: 1,000 predictions are too few" in few.stdout
    assert "refused: not judged: no rule had enough to look at" in few.stderr


def test_the_monitor_says_no_and_tells_the_webhook(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path, promoted=True)
    (row,) = held_out(project, 1)
    with serving(project, "uv", "run", project.slug, "serve") as address:
        for _ in range(3):
            assert predict(address, [row] * 500).is_success
    told: list[dict[str, object]] = []
    with listening(told) as hook:
        judged = project.uv(project.slug, "monitor", check=False, env={"ALERT_URLS": hook})
    assert judged.returncode == 3, judged.stderr
    assert re.search(r"refused: drift.*: see reports/monitor/", judged.stderr)
    assert [(found["status"], found["model"]) for found in told] == [("firing", project.slug)]
    found = latest(project)
    assert "drift" in found["verdicts"]
    assert "decay" in found["not_judged"]
    # Drift is no reason to learn again, and there is nothing new to learn from.
    said = project.uv(project.slug, "retrain").stdout
    assert "not retrained: no new data: no labelled row is newer than 2014-01-01" in said


def test_a_running_server_follows_a_rollback(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path, promoted=True)
    open_gates(project)
    tamper(project)
    assert "version 2 is the new champion" in project.uv(project.slug, "promote").stdout
    (row,) = held_out(project, 1)
    codes: list[int] = []
    ids: dict[str, str] = {}  # the last prediction of each version
    enough = threading.Event()

    def keep_asking(address: str) -> None:
        while not enough.is_set():
            answer = predict(address, [row])
            codes.append(answer.status_code)
            if answer.is_success:
                ids[answer.json()["model_version"]] = answer.json()["predictions"][0]["id"]

    def wait_for(version: str) -> None:
        end = time.monotonic() + 60
        while version not in ids:
            assert time.monotonic() < end, f"only {list(ids)} answered: {set(codes)}"
            time.sleep(0.1)

    command = str(project.path / ".venv/bin" / project.slug), "serve"
    with serving(project, *command) as address, ThreadPoolExecutor() as threads:
        clients = [threads.submit(keep_asking, address) for _ in range(2)]
        try:
            wait_for("2")
            rollback = project.slug, "rollback", "--reason", "late flights are missed"
            assert "version 1 is champion again" in project.uv(*rollback).stdout
            wait_for("1")
        finally:
            enough.set()
        assert [client.result() for client in clients] == [None, None]
        assert "observed" in httpx.get(address).text  # the card
    print(f"{len(codes)} answers")
    assert set(codes) == {200}

    # What is on record of all that.
    shown = project.uv(project.slug, "audit", "--json").stdout.splitlines()
    lines = [json.loads(line) for line in shown]
    moves = [(line["event"], line["version"]) for line in lines]
    assert moves == [("promoted", "1"), ("promoted", "2"), ("rolled back", "1")]
    assert lines[-1]["reason"] == "late flights are missed"
    for version, alias in {"1": "champion", "2": "previous"}.items():
        found = project.uv(project.slug, "trace", ids[version]).stdout
        assert f"{project.slug} {version} ({alias})\n" in found
        assert lines[int(version) - 1]["bundle_sha256"] in found
    card = (project.path / "build/champion/card.md").read_text("utf-8")
    assert project.uv(project.slug, "card").stdout == card
    assert "everything is in order" in project.uv(project.slug, "doctor").stdout


def test_the_tree_stays_clean(pipeline: Project) -> None:
    changed = pipeline.run("git", "status", "--porcelain").stdout.split()[1::2]
    assert set(changed) <= {"dvc.lock", "reports/"}


# fmt: off
VERBS = [
    "audit", "card", "demo", "doctor", "monitor", "promote", "reproduce", "retrain", "rollback",
    "score", "schema check", "schema infer", "serve", "trace", "tune",
]
# fmt: on


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(pipeline: Project, verb: str) -> None:
    command = pipeline.path / ".venv/bin" / pipeline.slug
    shown = pipeline.run(command, *verb.split(), "--help", env={"COLUMNS": "120"}).stdout
    assert f"uv run {pipeline.slug} {verb}" in shown
    assert pipeline.run(command, *verb.split(), "--nonsense", check=False).returncode == 2


def test_help_lists_every_verb(pipeline: Project) -> None:
    shown = pipeline.uv(pipeline.slug, "--help", env={"COLUMNS": "120"}).stdout
    listed = {word for line in shown.splitlines() for word in line.split()[1:2]}
    assert {verb.split()[0] for verb in VERBS} <= listed
