"""Tables that the project has never seen: from a file to an answered prediction in two commands."""

import gzip
import json
import shutil
import sqlite3
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project, copy
from servers import object_store, postgres, web
from test_workflows import bash, steps

pytestmark = pytest.mark.slow

# What the project's own environment has, written as files of every kind.
WRITE = """
import numpy as np, pandas as pd
from sklearn import datasets

cancer = datasets.load_breast_cancer(as_frame=True)
diagnosis = cancer.target.map({0: "malignant", 1: "benign"})
cancer.data.assign(diagnosis=diagnosis).to_csv("cancer.csv", index=False)
datasets.load_diabetes(as_frame=True).frame.to_csv("diabetes.csv.gz", index=False)
digits = datasets.load_digits(as_frame=True).frame
digits.to_json("digits.jsonl", orient="records", lines=True)

# Everything that is odd about names and values, in few rows.
rng, rows = np.random.default_rng(0), 300
number = rng.normal(size=rows)
odd = pd.DataFrame({
    "a b": number,
    "x.y": rng.normal(size=rows).round(2),
    "größe, cm": np.where(rng.random(rows) < .2, np.nan, rng.normal(170, 9, rows)),
    "1st": rng.integers(0, 9, rows),
    "class": rng.choice(["yes", "no", "1e3", "007"], rows),
    "it's \\"so\\"": rng.choice([True, False], rows),
    "a|b": rng.choice(["<b>", "&amp;", None], rows),
    "prediction": rng.normal(size=rows),
    "note": [f"note {n} {n * 7919 % 1000}" for n in range(rows)],
    "postcode": [f"{n * 37 % 60:05}" for n in range(rows)],
    "nothing": None,
    "always": 1,
    "leak": np.where(number > 0, "B", "A"),
    "copy": number * 2 + 1,
})
odd["label"] = np.where(number > 0, "up", "down")
flip = rng.random(rows) < .15
odd.loc[flip, "label"] = np.where(odd.label[flip] == "up", "down", "up")
odd["leak"] = odd.label.str[0]
odd.to_csv("odd.csv", index=False)

# Names with units, gaps, rows that repeat, a column that tells groups of people.
income, area = rng.lognormal(3, .5, 900).round(1), rng.normal(90, 30, 900).round()
units = pd.DataFrame({
    "Fläche [m²]": area,
    "Einkommen (TEUR)": np.where(rng.random(900) < .1, np.nan, income),
    "Tempo, km/h": rng.integers(30, 130, 900),
    "Lage*": rng.choice(["a+b", "(c)", "d|e"], 900),
    "Preis (EUR)": (2000 * area + 900 * income + rng.normal(0, 9000, 900)).round(2),
})
units.to_csv("units.csv", index=False)
people = pd.DataFrame({
    "Einkommen (TEUR)": units["Einkommen (TEUR)"],
    "Geschlecht": rng.choice(["w", "m", "d"], 900, p=[.48, .48, .04]),
    "Alter": np.where(rng.random(900) < .05, np.nan, rng.integers(18, 80, 900)),
    "Bewilligt?": np.where(income + rng.normal(0, 5, 900) > 20, "ja", "nein"),
})
pd.concat([people, people.head(5)]).to_csv("people.csv", index=False)

wide = pd.DataFrame(rng.normal(size=(400, 200)), columns=[f"f {n}" for n in range(200)])
wide["amount"] = 1000 * wide["f 0"] + 500 * wide["f 1"] + rng.normal(size=400) * 100
wide.to_parquet("wide.parquet")
"""


@dataclass(frozen=True)
class Table:
    file: str
    target: str
    task: str
    options: tuple[str, ...] = ()
    protected: str = ""  # the column that tells groups of people
    export: str = "onnx"


# A label of seven is wrong, and there are 180 rows to learn from: 100 trees would be too sure.
ODD = Table("odd.csv", "label", "binary-classification")
TABLES = [
    Table("seattle-weather.csv", "temp_max", "regression", ("--timestamp", "date")),
    ODD,
    *(
        pytest.param(table, marks=pytest.mark.rare)
        for table in (
            Table("penguins.csv", "species", "multiclass-classification"),
            Table("cancer.csv", "diagnosis", "binary-classification"),
            Table("diabetes.csv.gz", "target", "regression"),
            Table("digits.jsonl", "target", "multiclass-classification"),
            Table("randhie.csv", "mdvis", "regression"),
            Table("wide.parquet", "amount", "regression"),
        )
    ),
]
WHEELS = {
    "penguins.csv": ("palmerpenguins", "palmerpenguins/data/penguins.csv"),
    "seattle-weather.csv": ("vega-datasets", "vega_datasets/_data/seattle-weather.csv"),
    "fair.csv": ("statsmodels", "statsmodels/datasets/fair/fair.csv"),
    "randhie.csv": ("statsmodels", "statsmodels/datasets/randhie/randhie.csv"),
}
EXAMPLE = {"features.py", "flights.py", "ingest.py"}  # what `schema infer` takes away or empties


@pytest.fixture(scope="module")
def project(installed: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy(installed, tmp_path_factory.mktemp("own"))
    project.uv("python", "-c", WRITE)
    for file, (package, path) in WHEELS.items():
        shutil.copy(str(distribution(package).locate_file(path)), project.path / file)
    return project


def alone(table: Table, tmp_path: Path) -> dict[str, str]:
    """Return an environment with a registry and a log of its own, and a wide terminal."""
    return {
        "COLUMNS": "160",
        "BUNDLE": f"build/champion-{table.file}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PREDICTION_LOG_URL": f"sqlite:///{tmp_path}/predictions.db",
    }


def infer(project: Project, table: Table, *options: str) -> str:
    given = (table.file, "--target", table.target, *table.options, *options, "--force")
    return project.uv(project.slug, "schema", "infer", *given).stdout


def contract(project: Project) -> Any:
    return yaml.safe_load((project.path / "schema.yaml").read_text("utf-8"))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.file}-{table.target}")
def test_from_a_file_to_a_prediction(project: Project, table: Table, tmp_path: Path) -> None:
    print(infer(project, table))
    assert contract(project)["task"] == table.task
    said = project.uv(project.slug, "demo", env=alone(table, tmp_path)).stdout
    print(said)
    assert "one prediction" in said
    with sqlite3.connect(tmp_path / "predictions.db") as log:
        outputs = [json.loads(text) for (text,) in log.execute("SELECT output FROM predictions")]
    assert outputs
    key = "interval" if table.task == "regression" else "probabilities"
    assert all(key in output for output in outputs)
    metrics = json.loads((project.path / "reports/metrics.json").read_text("utf-8"))
    print(metrics["test"], metrics["baseline"])
    assert "stays a challenger" not in " ".join(said.split())
    card = (project.path / f"build/champion-{table.file}/card.md").read_text("utf-8")
    assert ("split at random (seed 0)" in card) == ("--timestamp" not in table.options)
    changed = project.run("git", "status", "--porcelain", "src").stdout.splitlines()
    assert {Path(line[3:]).name for line in changed} == EXAMPLE  # and no Python was edited
    if table is ODD:
        ci_is_green(project)


def test_what_was_inferred_of_an_odd_table(project: Project) -> None:
    said = infer(project, ODD)
    columns = contract(project)["columns"]
    for name in ("note", "nothing", "always", "leak"):
        assert columns[name].get("role") in ("ignored", "id"), name
    assert columns["postcode"]["categories"][1] == "00001"
    assert columns["class"]["categories"] == sorted(["yes", "no", "1e3", "007"])
    assert columns['it\'s "so"']["type"] == "boolean"
    assert columns["größe, cm"]["nullable"] is True
    assert columns["1st"]["type"] == "integer"
    assert "leak" in said


def ci_is_green(project: Project) -> None:
    """With no line of code changed."""
    scripts = [step["run"] for step in steps("ci.yml") if "run" in step]
    assert "bash deploy/deliver.sh test" in scripts
    for script in scripts:
        done = bash(script, project.path, CLI=project.slug)
        assert done.returncode == 0, f"{script}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


OWN = [
    Table("people.csv", "Bewilligt?", "binary-classification", protected="Geschlecht"),
    Table("seattle-weather.csv", "weather", "multiclass-classification", ("--timestamp", "date")),
    Table("units.csv", "Preis (EUR)", "regression"),
    Table("penguins.csv", "species", "multiclass-classification", export="skops"),
]


@pytest.mark.rare
@pytest.mark.parametrize("table", OWN, ids=lambda table: table.file)
def test_what_ci_runs_is_green_on_a_table_of_one_s_own(project: Project, table: Table) -> None:
    project.run("git", "checkout", "--quiet", ".")
    infer(project, table)
    if table.protected:
        edit_yaml(project, "schema.yaml", "columns", table.protected, protected=True)
    edit_yaml(project, "params.yaml", "export", format=table.export)
    # Without a pull request, and without the dvc.lock of another table.
    (project.path / "dvc.lock").unlink(missing_ok=True)
    ci_is_green(project)
    project.uv(project.slug, "export")
    name = {"onnx": "model.onnx", "skops": "model.skops"}[table.export]
    assert (project.path / "build/bundle" / name).is_file()


def edit_yaml(project: Project, file: str, *place: str, **values: object) -> None:
    """Set keys in the mapping at `place` of a YAML file."""
    path = project.path / file
    content = section = yaml.safe_load(path.read_text("utf-8"))
    for key in place:
        section = section[key]
    section.update(values)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


# Where tables come from


def sources(project: Project, source: object, **env: str) -> int:
    """Ingest from a source; return the number of rows."""
    path = project.path / "params.yaml"
    params = yaml.safe_load(path.read_text("utf-8"))
    params["ingest"]["source"] = source
    path.write_text(yaml.safe_dump(params), "utf-8")
    project.uv(project.slug, "ingest", env=env)
    count = "import pandas; print(len(pandas.read_parquet('data/raw.parquet')))"
    return int(project.uv("python", "-c", count).stdout)


PUT = """
import fsspec
s3 = fsspec.filesystem("s3")
s3.mkdir("lake")
s3.put("fair.csv", "lake/fair.csv")
"""
FILL = """
import os, pandas, sqlalchemy
table = pandas.read_csv("fair.csv")
table.to_sql("fair", sqlalchemy.create_engine(os.environ["WAREHOUSE_URL"]), index=False)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database(project: Project, tmp_path: Path, kind: str) -> None:
    infer(project, Table("fair.csv", "affairs", "regression"))

    def read(url: str) -> None:
        env = {"WAREHOUSE_URL": url}
        project.uv("python", "-c", FILL, env=env)
        query = {"sql": "SELECT * FROM fair WHERE religious >= 2", "url_env": "WAREHOUSE_URL"}
        assert 0 < sources(project, query, **env) < 6366
        given = ("--sql", query["sql"], "--url-env", "WAREHOUSE_URL", "--target", "affairs")
        project.uv(project.slug, "schema", "infer", *given, "--force", env=env)
        assert contract(project)["task"] == "regression"
        project.uv("dvc", "repro", "split", env=env)
        gone = project.uv(project.slug, "ingest", env={"WAREHOUSE_URL": url + "x/y"}, check=False)
        assert (gone.returncode, gone.stderr.count("\n")) == (1, 1), gone.stderr

    if kind == "sqlite":
        read(f"sqlite:///{tmp_path}/warehouse.db")
    else:
        with postgres() as url:
            read(url)


def test_a_web_address_and_an_object_store(project: Project, tmp_path: Path) -> None:
    infer(project, Table("fair.csv", "affairs", "regression"))
    content = (project.path / "fair.csv").read_bytes()
    (tmp_path / "fair.csv.gz").write_bytes(gzip.compress(content))
    with web(tmp_path) as address:
        assert sources(project, f"{address}/fair.csv.gz") == 6366
        gone = (f"{address}/nothing.csv", "--target", "affairs", "--force")
        refused = project.uv(project.slug, "schema", "infer", *gone, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    with object_store() as address:
        env = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        project.uv("python", "-c", PUT, env=env)
        assert sources(project, "s3://lake/fair.csv", **env) == 6366
