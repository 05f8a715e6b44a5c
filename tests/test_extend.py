"""The recipes of docs/extend.md, followed in a rendered project by its own patches and commands."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TREE, Project, copy

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("extend")]

SHORT = {  # four months are enough to follow a recipe
    "end: '2014-01-01'": "end: '2013-05-01'",
    "train_end: '2013-09-01'": "train_end: '2013-03-20'",
    "validation_end: '2013-10-01'": "validation_end: '2013-04-01'",
}
USERS_FILES = ("src/", "tests/", "schema.yaml", "params.yaml", "behaviour.yaml", "dvc.yaml")


def recipes(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the code blocks of each section, as (language, content)."""
    found = {}
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        found[title] = re.findall(r"^```(\w+)\n(.*?)^```", body, re.S | re.M)
    return found


@pytest.fixture(scope="module")
def base(pipeline: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a champion, on fewer months, in which everything is committed."""
    project = copy(pipeline, tmp_path_factory.mktemp("extend"), promoted=True)
    params = project.path / "params.yaml"
    text = params.read_text("utf-8")
    for old, new in SHORT.items():
        assert old in text
        text = text.replace(old, new)
    params.write_text(text, "utf-8")
    # A spring is not distributed as the whole year, which was accepted last.
    (project.path / "reports/data/accepted.json").unlink()
    project.uv("dvc", "repro", timeout=1200)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Four months")
    return project


@pytest.fixture
def project(base: Project) -> Iterator[Project]:
    """The project as it was; what a recipe changed is put back afterwards."""
    yield base
    git(base, "reset", "--quiet", "--hard")
    git(base, "clean", "--quiet", "-d", "--force")


def git(project: Project, *command: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    project.run("git", *identity, *command)


def follow(project: Project, *titles: str) -> None:
    """Do what the recipes say, and run the pipeline; they may touch the user's files only."""
    found = recipes((project.path / "docs/extend.md").read_text("utf-8"))
    for title in titles:
        for language, content in found[title]:
            if language == "diff":
                touched = re.findall(r"^\+\+\+ b/(.*)$", content, re.M)
                assert all(name.startswith(USERS_FILES) for name in touched), touched
                project.run("git", "apply", "--recount", "-", input=content)
            else:
                project.run("sh", "-e", "-c", content)
    project.uv("dvc", "repro", timeout=1200)


def promote(project: Project) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Return what `promote --json` came to, and its gates by name."""
    done = project.uv(project.slug, "promote", "--json", check=False)
    assert done.returncode in (0, 3), done.stderr
    document = json.loads(done.stdout)
    assert document["outcome"] == ("refused" if done.returncode else "promoted")
    return done, {gate["gate"]: gate for gate in document["gates"]}


def bundle(project: Project, name: str = "bundle.json") -> str:
    return (project.path / "build/bundle" / name).read_text("utf-8")


def metrics(project: Project) -> Any:
    return json.loads((project.path / "reports/metrics.json").read_text("utf-8"))


def test_every_recipe_is_followed_here() -> None:
    text = (TREE / "docs/extend.md").read_text("utf-8")
    here = Path(__file__).read_text("utf-8")
    assert [title for title in recipes(text) if f'"{title}"' not in here] == []


TITLES = list(recipes((TREE / "docs/extend.md").read_text("utf-8")))


@pytest.mark.parametrize("title", TITLES)
def test_its_patches_fit_the_project(rendered: Project, tmp_path: Path, title: str) -> None:
    """Also those of the recipes that only `make test-all` follows to the end."""
    project = copy(rendered, tmp_path)
    found = recipes((project.path / "docs/extend.md").read_text("utf-8"))
    patches = [content for language, content in found[title] if language == "diff"]
    assert patches
    for content in patches:
        project.run("git", "apply", "--recount", "-", input=content)
    assert project.run("git", "status", "--porcelain").stdout.strip()


def test_another_estimator(project: Project) -> None:
    follow(project, "Another estimator")
    fitted = json.loads(bundle(project))["estimator"]
    assert fitted["name"] == "RandomForestClassifier"
    assert fitted["params"]["n_estimators"] == 50
    card = bundle(project, "card.md")
    assert "Estimator: RandomForestClassifier." in card
    assert "| n\\_estimators | 50 |" in card or "| n_estimators | 50 |" in card
    assert "gradient_boosting" not in card
    with sqlite3.connect(project.path / ".mlflow/mlflow.db") as database:
        runs = {name for (name,) in database.execute("SELECT name FROM runs")}
        found = dict(database.execute("SELECT key, value FROM params WHERE value = '50'"))
    assert "RandomForestClassifier" in runs
    assert "estimator.n_estimators" in found
    _, gates = promote(project)
    assert gates["parity"]["passed"]


@pytest.mark.rare
def test_estimators_of_other_libraries(project: Project) -> None:
    """In groups that the project declares; the package's own tests train and export each."""
    params = project.path / "params.yaml"
    text = params.read_text("utf-8").replace("model: gradient_boosting", "model: lightgbm")
    params.write_text(text, "utf-8")
    missing = project.uv("dvc", "repro", "train", check=False, timeout=1200)
    assert "lightgbm is not installed: uv sync --group lightgbm" in missing.stderr
    groups = [part for name in ("lightgbm", "xgboost", "catboost") for part in ("--group", name)]
    project.run("uv", "sync", "--inexact", "--all-packages", "--group", "dev", *groups)
    project.uv("dvc", "repro", timeout=1200)
    assert json.loads(bundle(project))["estimator"]["name"] == "LGBMClassifier"
    assert (project.path / "build/bundle/model.onnx").is_file()
    _, gates = promote(project)
    assert gates["parity"]["passed"]
    found = project.uv("pytest", "-q", "packages/mlops-loop/tests/test_estimators.py", timeout=1200)
    assert "skipped" not in found.stdout


@pytest.mark.rare
def test_a_model_for_each_category(project: Project) -> None:
    follow(project, "A model for each category")
    made = json.loads(bundle(project))
    assert made["segments"]["column"] == "origin"
    assert made["segments"]["models"].keys() == {"EWR", "JFK", "LGA"}
    assert set(made["segments"]["models"].values()) < made["files"].keys()
    assert "### By segment" in bundle(project, "card.md")
    assert metrics(project)["segments"]["JFK"]["model"] == "own"
    shown = project.uv("dvc", "metrics", "show", "--json").stdout
    assert '"training_rows"' in shown
    first = (project.path / "build/model.skops").read_bytes()
    project.uv("dvc", "repro", "--force", "--single-item", "train", timeout=1200)
    assert (project.path / "build/model.skops").read_bytes() == first
    _, gates = promote(project)
    for gate in ("server", "parity", "baseline: origin=EWR"):
        assert gates[gate]["passed"], gate
    assert {"calibration: origin=LGA", "champion: origin=JFK"} <= gates.keys()
    project.uv(project.slug, "score", "data/test.parquet", "scored.parquet")
    project.uv("pytest", "-q", timeout=1200)
    params = project.path / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("min_rows: 1000}", "min_rows: 10000000}"))
    alone = project.uv("dvc", "repro", "train", check=False, timeout=1200)
    assert alone.returncode
    assert "no category of 'origin' can have a model of its own: EWR (" in alone.stderr


@pytest.mark.rare
def test_a_step_that_onnx_cannot_express(project: Project) -> None:
    follow(project, "A step that ONNX cannot express")
    assert (project.path / "build/bundle/model.skops").is_file()
    _, gates = promote(project)
    assert gates["server"]["passed"]
    assert gates["parity"]["passed"]


def test_the_other_recipes_go_together(project: Project) -> None:
    titles = "A derived feature", "A metric", "A gate", "A second source", "Dropping a column"
    follow(project, *titles)
    example = json.loads(bundle(project))["example"]
    assert "altitude" in example
    assert "dew_point" not in example
    assert "| altitude |" in bundle(project, "card.md")
    assert "gustiness" not in example
    assert "| gustiness |" in bundle(project, "card.md")
    importance = project.path / "reports/plots/importance.csv"
    assert "gustiness," in importance.read_text("utf-8")
    found = metrics(project)
    name = "precision_at_top"
    assert found["test"][name] > found["baseline"][name]
    shown = project.uv("dvc", "metrics", "show", "--json").stdout
    assert f'"{name}"' in shown
    assert name in bundle(project, "card.md")
    assert name in (project.path / "reports/evaluation.html").read_text("utf-8")
    with sqlite3.connect(project.path / ".mlflow/mlflow.db") as database:
        keys = {key for (key,) in database.execute("SELECT key FROM metrics")}
    assert f"test.{name}" in keys
    # A wrong value is one line that says what it should be.
    path = project.path / "src" / project.package / "gates.py"
    recipe = path.read_text("utf-8")
    path.write_text(re.sub(r"return check_limit\(.*\)", "return True", recipe), "utf-8")
    wrong = project.uv(project.slug, "promote", check=False)
    assert wrong.returncode == 1
    assert "project.py: gates: top returned True: return a GateResult" in wrong.stderr

    # Asked for more than there can be, it refuses.
    path.write_text(recipe.replace("candidate.baseline[name])", "1.0)"), "utf-8")
    refused, gates = promote(project)
    assert gates["top"]["passed"] is False
    assert f"top: {name}" in refused.stderr
    audited = project.uv(project.slug, "audit", "--json").stdout.splitlines()
    last = [gate for gate in json.loads(audited[-1])["gates"] if gate["gate"] == "top"]
    assert last[0]["passed"] is False
    challenger = project.path / "build/challenger/card.md"
    assert re.search(rf"\| top \| {name} .*refused", challenger.read_text("utf-8"))

    path.write_text(recipe, "utf-8")
    _, gates = promote(project)
    assert gates["server"]["passed"]
    assert gates["top"]["passed"] is True
    assert gates["top"]["number"] == pytest.approx(gates["top"]["value"], rel=1)
    assert gates["champion"]["measure"].startswith("gain in")
    assert gates["champion"]["value"] is not None
    assert gates["labels"]["value"] is not None
    project.uv("pytest", "-q", timeout=1200)
