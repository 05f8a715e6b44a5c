"""The default project, driven through its own commands as its user would."""

import csv
import json
import sqlite3
from io import StringIO
from pathlib import Path

import httpx
import pytest
import yaml
from conftest import Bake, Project, copy, serving

pytestmark = pytest.mark.slow

# What a user would look up, in the project's own environment.
FIND_RUN = """
import hashlib, json, mlflow, pathlib
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = hashlib.sha256(pathlib.Path("models/model.skops").read_bytes()).hexdigest()
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
    type(mlflow.sklearn.load_model(run.data.tags["model_uri"])).__name__,
]))
"""
HELD_OUT = """
import json, pandas as pd
columns = pd.read_parquet("build/bundle/reference.parquet").columns.drop("prediction")
table = pd.read_parquet("data/test.parquet")[columns].sample(ROWS, random_state=0)
print(table.to_json(orient="records"))
"""
STAGES = ["ingest", "validate", "split", "train", "evaluate", "export"]
PAGES = ["reports/data/validation.html", "reports/evaluation.html"]


def edit(project: Project, section: str, **values: object) -> None:
    """Change values of a section of params.yaml."""
    path = project.path / "params.yaml"
    params = yaml.safe_load(path.read_text("utf-8"))
    params[section] |= values
    path.write_text(yaml.safe_dump(params), "utf-8")


def metrics(project: Project) -> dict[str, dict[str, float]]:
    shown = json.loads(project.uv("dvc", "metrics", "show", "--json").stdout)
    return shown[""]["data"]["reports/metrics.json"]["data"]  # type: ignore[no-any-return]


def predict(address: str, rows: list[dict[str, object]], **headers: str) -> httpx.Response:
    return httpx.post(f"{address}/v1/predict", json={"rows": rows}, headers=headers, timeout=30)


def held_out(project: Project, rows: int) -> list[dict[str, object]]:
    """Return rows of the test window as a client would send them."""
    script = HELD_OUT.replace("ROWS", str(rows))
    return json.loads(project.uv("python", "-c", script).stdout)  # type: ignore[no-any-return]


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
        ("promote", {"min_gain": 0.01}, None),
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


def test_the_same_inputs_give_the_same_bytes(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path)
    before = (project.path / "dvc.lock").read_text("utf-8")
    project.uv("dvc", "repro", "--force", env={"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"})
    assert (project.path / "dvc.lock").read_text("utf-8") == before


def test_experiments_plots_and_a_refused_candidate(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path)
    project.uv(project.slug, "promote")
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
    params, measured, tags, is_champion, datasets, inputs, plots, kind = found
    assert params["train.model"] == "gradient_boosting"
    assert measured["test.roc_auc"] == metrics(pipeline)["test"]["roc_auc"]
    assert tags["git_commit"].startswith(pipeline.run("git", "rev-parse", "HEAD").stdout.strip())
    assert is_champion
    assert datasets == [["train", tags["data_sha256"][:32]]]
    assert {"carrier", "distance"} <= set(inputs)
    assert {"evaluation/roc.png", "evaluation/confusion.csv"} <= set(plots)
    assert kind == "Pipeline"


def test_pages_need_no_network(pipeline: Project) -> None:
    for page in PAGES:
        text = (pipeline.path / page).read_text("utf-8")
        assert "<table" in text, page
        assert "http" not in text, page
    assert (pipeline.path / PAGES[1]).read_text("utf-8").count("data:image/png;base64,") == 4


def test_the_bundle_says_what_it_was_made_of(pipeline: Project) -> None:
    bundle = pipeline.path / "build/bundle"
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    assert set(manifest["files"]) == {path.name for path in bundle.iterdir()} - {"bundle.json"}
    assert {"model.onnx", "schema.yaml", "reference.parquet", "card.md"} <= set(manifest["files"])
    assert manifest["params"]["train"]["model"] == "gradient_boosting"
    assert set(manifest["data_sha256"]) == {"train.parquet", "test.parquet"}
    assert 0 < manifest["threshold"] < 1
    assert "observed" in (bundle / "card.md").read_text("utf-8")


def test_the_serving_environment_is_small_and_serves(pipeline: Project, tmp_path: Path) -> None:
    project = copy(pipeline, tmp_path)
    project.uv(project.slug, "promote")
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
    load = f"import {project.package}.serve.app as app; app.create_app()"
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

    judged = project.uv(project.slug, "monitor", check=False)
    (summary,) = project.path.glob("reports/monitor/*/summary.json")
    found = json.loads(summary.read_text("utf-8"))
    assert judged.returncode == (3 if found["drift"] else 0), judged.stderr
    assert found["rows"] == 1000
    assert 'src="http' not in (summary.parent / "report.html").read_text("utf-8")
    edit(project, "monitor", drift_share=0.01)
    assert project.uv(project.slug, "monitor", check=False).returncode == 3
    edit(project, "monitor", drift_share=1.0)
    assert project.uv(project.slug, "monitor").stdout.startswith("no drift")
    edit(project, "monitor", min_rows=5000)
    few = project.uv(project.slug, "monitor", check=False)
    assert few.returncode == 1
    assert "1000 predictions of version 1" in few.stderr


def test_its_own_tests_and_linters_pass(pipeline: Project) -> None:
    pipeline.uv("ruff", "check", ".")
    pipeline.uv("ruff", "format", "--check", ".")
    pipeline.uv("mypy")
    pipeline.uv("pytest", timeout=900)
    pipeline.run("uv", "lock", "--check")
    pipeline.uv("pre-commit", "run", "--all-files")


def test_the_tree_stays_clean(pipeline: Project) -> None:
    changed = pipeline.run("git", "status", "--porcelain").stdout.split()[1::2]
    assert set(changed) <= {"dvc.lock", "reports/"}


@pytest.mark.parametrize("verb", ["demo", "promote", "serve", "score", "monitor", "tune"])
def test_help_has_an_example(pipeline: Project, verb: str) -> None:
    assert verb in pipeline.uv(pipeline.slug, "--help").stdout
    assert f"uv run {pipeline.slug} {verb}" in pipeline.uv(pipeline.slug, verb, "--help").stdout
    assert pipeline.uv(pipeline.slug, verb, "--nonsense", check=False).returncode == 2


def test_the_demo_shows_it_all(bake: Bake) -> None:
    project = bake(lock=True, project_name="Second Project")
    said = project.uv(project.slug, "demo", timeout=1200, env={"COLUMNS": "120"}).stdout
    for stage in STAGES:
        assert f"{stage}, seconds" in said
    for word in ("roc_auc (naive", "second-project version 1", "one prediction", "drift in"):
        assert word in said
    for path in (*PAGES, "build/champion/card.md"):
        assert path in said
        assert (project.path / path).exists()
