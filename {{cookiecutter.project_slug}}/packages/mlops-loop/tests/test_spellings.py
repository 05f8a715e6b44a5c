"""Tables as people and programs write them: `schema infer` on what is spelled in other ways."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import Sql, load_params
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data import ingest, tables
from mlops_loop.data.cast import check_rows
from mlops_loop.data.source.read import batches
from mlops_loop.onboarding.infer.main import infer

from .conftest import ROOT, change

ROWS = 300
RANDOM = np.random.default_rng(1)
NUMBERS = RANDOM.normal(5, 3, ROWS).round(3)
WHOLE = RANDOM.integers(0, 5000, ROWS) * 1000 + 123
LABELS = RANDOM.choice(["yes", "no"], ROWS)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without a contract, in which the test runs."""
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inferred(source: str, target: str = "y", timestamp: str | None = None) -> Schema:
    infer(source, target, timestamp, None, True)
    return load_schema()


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"other": NUMBERS[::-1], **columns, "y": LABELS})


def written(values: object, **options: object) -> Column:
    """Return what is inferred of a column `x` of a CSV file."""
    table(x=values).to_csv("table.csv", index=False, **options)
    return inferred("table.csv").columns["x"]


def german(number: float) -> str:
    return f"{number:,.2f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize("spell", [str, "{:e}".format, " {} ".format, "+{:.3f}".format])
def test_a_number_is_a_number(spell: Callable[[float], str]) -> None:
    column = written([spell(abs(number)) for number in NUMBERS])
    assert (column.type, column.role) == ("number", "feature")


@pytest.mark.parametrize(
    "values",
    [
        [str(number).replace(".", ",") for number in NUMBERS],
        [german(number * 1000) for number in NUMBERS],
        [f"{grade:.1f}".replace(".", ",") for grade in RANDOM.choice([1, 1.3, 1.7, 2], ROWS)],
        [german(number) if number > 2 else "#DIV/0!" for number in NUMBERS],
    ],
)
def test_a_decimal_comma_is_read(values: list[str]) -> None:
    column = written(values, sep=";")
    assert (column.type, column.role, column.decimal) == ("number", "feature", ",")
    ingest.store(load_schema(), load_params().ingest)
    found = tables.read_table(files.RAW)["x"]
    wanted = [None if "#" in v else float(v.replace(".", "").replace(",", ".")) for v in values]
    assert found.dropna().tolist() == [number for number in wanted if number is not None]


STANDS = [r"\N", "<NA>", "NaT", "(null)", "#DIV/0!", "#N/A", "NULL", "nan", "NA", "-", "?", "None"]


@pytest.mark.parametrize("text", STANDS)
def test_what_stands_for_a_missing_number_is_missing(text: str) -> None:
    column = written([text if place % 50 == 7 else n for place, n in enumerate(NUMBERS)])
    assert (column.type, column.role, column.nullable) == ("number", "feature", True)


@pytest.mark.parametrize(
    "spell",
    [
        "{:,}".format,
        lambda n: f"{n:,}".replace(",", "'"),
        lambda n: f"{n:,}".replace(",", "\u202f"),
        "{} %".format,
        "CHF {}".format,
        "{} EUR".format,
        "${}".format,
        "({})".format,
        "{}-".format,
        "\u2212{}".format,
        "{} kg".format,
        lambda n: str(n) if n % 7 else "Total",
        lambda n: str(n) if n != WHOLE[200] else "see note",
    ],
)
def test_numbers_in_other_spellings_are_said_and_never_ids(spell, capsys) -> None:
    values = [spell(number) for number in WHOLE]
    column = written(values)
    assert column.role == "ignored"
    said = capsys.readouterr().out
    place = next(place for place, text in enumerate(values) if not text.isdigit())
    assert "look at   'x': numbers, but for " in said
    assert f"{values[place]!r} (row {place + 1})" in said
    with pytest.raises(Failure, match=f"'x' holds numbers, but for .*row {place + 1}"):
        inferred("table.csv", "x")


def test_a_target_with_a_decimal_comma_is_a_number() -> None:
    written([german(number) for number in NUMBERS], sep=";")
    schema = inferred("table.csv", "x")
    assert (schema.task, schema.columns["x"].decimal) == ("regression", ",")


def test_a_total_below_the_table_is_said(folder, capsys) -> None:
    numbered = table(x=WHOLE).reset_index(names="count")
    total = pd.DataFrame({"count": ["Total"], "y": ["600"]})
    pd.concat([numbered, total]).to_csv("table.csv", index=False)
    schema = inferred("table.csv")
    assert schema.columns["count"].role == "ignored"
    assert "'Total' (row 301)" in capsys.readouterr().out
    assert schema.classes == ["no", "yes"]


def test_codes_and_categories_stay_what_they_are() -> None:
    more = RANDOM.choice(["0", "1", "2", "3+"], ROWS)
    assert written(more).categories == ("0", "1", "2", "3+")
    codes = [f"{value:05d}" for value in RANDOM.integers(0, 9000, 40)]
    assert written(RANDOM.choice(codes, ROWS)).type == "category"
    assert written([f"10.0.{place % 20}.1" for place in range(ROWS)]).type == "category"
    countries = written(RANDOM.choice(["NA", "DE", "FR"], ROWS))
    assert (countries.categories, countries.nullable) == (("DE", "FR", "NA"), False)


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "X", "#", "level_0", "row", "Column1"])
def test_a_row_number_is_an_id_however_the_file_is_sampled(name: str) -> None:
    place = np.sort(RANDOM.choice(ROWS * 40, ROWS, replace=False))
    table().assign(**{name: place})[[name, "other", "y"]].to_csv("table.csv", index=False)
    schema = inferred("table.csv")
    assert schema.columns[name or "index"].role == "id"


@pytest.mark.parametrize(
    "name", ["order_no", "invoice_number", "ID_code", "id_student", "rowid", "Nr.", "customerKey"]
)
def test_whole_numbers_with_an_ids_name_are_one(name: str) -> None:
    values = RANDOM.choice(10**9, ROWS, replace=False)
    table(**{name: values}).to_csv("table.csv", index=False)
    assert inferred("table.csv").columns[name].role == "id"


def test_a_number_that_counts_the_rows_is_an_id_and_a_measure_is_not() -> None:
    dense = RANDOM.choice(ROWS * 9, ROWS, replace=False)
    sparse = RANDOM.choice(10**6, ROWS, replace=False)
    table(dense=dense, sparse=sparse, num_rooms=sparse // 7).to_csv("table.csv", index=False)
    columns = inferred("table.csv").columns
    assert [columns[name].role for name in ("dense", "sparse", "num_rooms")] == [
        "id",
        "feature",
        "feature",
    ]


def test_what_a_file_calls_its_index_is_an_id() -> None:
    index = pd.Index(RANDOM.choice(10**7, ROWS, replace=False) / 8, name="place")
    table().set_index(index).to_parquet("table.parquet")
    assert inferred("table.parquet").columns["place"].role == "id"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("kept", ["uint64", "int64", "float64"])
def test_whole_numbers_beyond_floats_are_ids_in_every_format(kind: str, kept: str) -> None:
    values = pd.Series(RANDOM.integers(2**61, 2**62, ROWS)).astype(kept)
    found = table(x=values)
    found.to_csv("table.csv", index=False)
    found.to_parquet("table.parquet", index=False)
    assert inferred(f"table.{kind}").columns["x"].role == "id"


LABELS_OF_NUMBERS = RANDOM.integers(0, 2, ROWS)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS_OF_NUMBERS,
        LABELS_OF_NUMBERS.astype(float),
        LABELS_OF_NUMBERS.astype(str),
        [None if place < 9 else float(label) for place, label in enumerate(LABELS_OF_NUMBERS)],
        [f"{label}.00" for label in LABELS_OF_NUMBERS],
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_classes_of_numbers_have_one_name_however_they_are_written(labels, kind: str) -> None:
    found = table().assign(y=labels)
    found.to_csv("table.csv", index=False)
    found.to_parquet("table.parquet", index=False)
    schema = inferred(f"table.{kind}")
    assert (schema.classes, schema.positive) == (["0", "1"], "1")
    other = "csv" if kind == "parquet" else "parquet"
    change(files.PARAMS, "ingest", source=f"table.{other}")
    ingest.store(schema, load_params().ingest)
    wanted = pd.Series(labels).dropna().astype(float).astype(int).astype(str)
    assert tables.read_table(files.RAW)["y"].dropna().tolist() == wanted.tolist()


def test_old_contracts_keep_their_spelling_and_007_stays_a_text() -> None:
    old = Column(type="category", categories=("0.0", "1.0"))
    typed, reasons = check_rows(pd.DataFrame({"x": ["0", "1.00", "+1", "2", "01"]}), {"x": old})
    assert typed["x"].tolist()[:3] == ["0.0", "1.0", "1.0"]
    assert reasons.eq("").tolist() == [True, True, True, False, False]
    coded = Column(type="category", categories=("007", "7"))
    typed, reasons = check_rows(pd.DataFrame({"x": ["007", "7", "7.0"]}), {"x": coded})
    assert reasons.eq("").tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_truth_values_have_one_name(kind: str) -> None:
    found = table().assign(y=LABELS == "yes", flag=NUMBERS > 5)
    found.to_csv("table.csv", index=False)
    found.to_parquet("table.parquet", index=False)
    assert inferred(f"table.{kind}").classes == ["false", "true"]
    texts = found["flag"].map({True: "TRUE", False: "FALSE"}).mask(NUMBERS > 8, "nan")
    column = written(texts)
    assert (column.type, column.nullable) == ("boolean", True)


@pytest.mark.parametrize("text", ["nan", "NULL", "NA", r"\N", "N/A", "?"])
def test_a_missing_label_is_no_class(text: str, capsys) -> None:
    labels = np.where(np.arange(ROWS) < 20, text, LABELS)
    table().assign(y=labels).to_csv("table.csv", index=False)
    schema = inferred("table.csv")
    assert schema.classes == ["no", "yes"]
    assert schema.columns["y"].nullable
    assert f"{text!r} in y (20)" in capsys.readouterr().out
    ingest.store(schema, load_params().ingest)
    assert tables.read_table(files.RAW)["y"].isna().sum() == 20


def test_a_label_that_is_a_word_stays_a_class() -> None:
    table().assign(y=RANDOM.choice(["none", "mild", "severe"], ROWS)).to_csv("t.csv", index=False)
    assert inferred("t.csv").classes == ["mild", "none", "severe"]


SECONDS = np.sort(RANDOM.integers(1_690_000_000, 1_720_000_000, ROWS))
WHEN = pd.Series(pd.to_datetime(SECONDS, unit="s"))
NUMBERED = {
    "epoch s": SECONDS,
    "epoch ms": SECONDS * 1000,
    "epoch us": SECONDS * 1_000_000,
    "%Y%m%d": WHEN.dt.strftime("%Y%m%d").astype(int),
    "%Y%m%d%H%M%S": WHEN.dt.strftime("%Y%m%d%H%M%S").astype("int64"),
    "excel": (WHEN - pd.Timestamp("1899-12-30")).dt.days,
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("form", NUMBERED)
def test_times_that_are_whole_numbers_are_no_features(form: str, kind: str, capsys) -> None:
    found = table(created_at=NUMBERED[form])
    found.to_csv("table.csv", index=False)
    found.to_parquet("table.parquet", index=False)
    assert inferred(f"table.{kind}").columns["created_at"].role == "ignored"
    said = " ".join(capsys.readouterr().out.split())
    assert "--timestamp" in said
    schema = inferred(f"table.{kind}", timestamp="created_at")
    ingest.store(schema, load_params().ingest)
    stored = tables.read_table(files.RAW)["created_at"]
    days = form in ("%Y%m%d", "excel")
    wanted = WHEN.dt.normalize() if days else WHEN
    assert (stored.dt.floor("s") == wanted.to_numpy()).all()


@pytest.mark.parametrize(
    "form",
    [
        *("%d-%b-%y", "%m/%d/%Y %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S,%f", "%Y-%m-%d %H:%M:%S CET"),
        *("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+02:00", "%b %d, %Y", "%Y/%m/%d %H:%M"),
    ],
)
def test_times_in_usual_texts_are_read(form: str) -> None:
    texts = WHEN.dt.strftime(form).mask(np.arange(ROWS) == 5, "0000-00-00")
    table(when=texts).to_csv("table.csv", index=False)
    schema = inferred("table.csv", timestamp="when")
    assert schema.columns["when"].nullable
    ingest.store(schema, load_params().ingest)
    stored = tables.read_table(files.RAW)["when"]
    assert stored.isna().sum() == 1
    exact = WHEN.dt.floor("s" if "%S" in form else "min" if "%M" in form else "D")
    hours = 2 if "+02" in form else 0
    found = stored[np.arange(ROWS) != 5].to_numpy()
    wanted = (exact - pd.Timedelta(hours=hours))[np.arange(ROWS) != 5].to_numpy()
    zones = 2 if form.endswith("CET") else 0
    assert (np.abs(found - wanted) <= np.timedelta64(zones, "h")).all()


def test_a_year_has_no_maximum() -> None:
    column = written(RANDOM.integers(2015, 2026, ROWS))
    table(year=RANDOM.integers(2015, 2026, ROWS)).to_csv("table.csv", index=False)
    year = inferred("table.csv").columns["year"]
    assert (column.maximum is not None, year.maximum, year.role) == (True, None, "feature")


BODY = "".join(f"{a};{b};{y}\n" for a, b, y in zip(NUMBERS, WHOLE, LABELS, strict=True))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"sep=;\na;b;y\n{BODY}", None),
        ("a;b;y;\n" + BODY.replace("\n", ";\n"), None),
        (f"\n\na;b;y\n{BODY}", None),
        (f"\ufeffa;b;y\n{BODY}".replace("\n", "\r\n"), None),
        (f"a;b;y\r\n{BODY}", "line 2: ends in another way than line 1"),
        (f"Sales of 2024\na;b;y\n{BODY}", "line 1: 1 name for 3 columns: is it a title"),
        (f"Sales of 2024;;\na;b;y\n{BODY}", "line 1: 1 name for 3 columns: is it a title"),
        (BODY, "line 1: numbers where the columns' names belong"),
        ("a;;y\n" + BODY, "column 2 has no name"),
        (f"a;b;y\n{BODY}1;2;yes;4\n", "line 302: 4 fields, but the header has 3"),
        (f"a;b;y\n{BODY}1;2\n", "line 302: 2 fields, but the header has 3"),
        (f'a;b;y\n{BODY}1;"2;yes\n', "line 302: a quotation mark is not closed"),
    ],
)
def test_exports_of_spreadsheets(text: str, what: str | None, folder) -> None:
    Path("table.csv").write_text(text, encoding="utf-8", newline="")
    if what:
        with pytest.raises(Failure, match=what):
            inferred("table.csv")
        assert not files.SCHEMA.exists()
    else:
        assert list(inferred("table.csv").columns) == ["a", "b", "y"]


def test_classes_that_differ_in_blanks_are_said(capsys) -> None:
    labels = [f"{label} " if place % 3 else label for place, label in enumerate(LABELS)]
    table().assign(y=labels).to_csv("table.csv", index=False)
    inferred("table.csv")
    assert "'no' and 'no ' in 'y'; 'yes' and 'yes ' in 'y' differ only" in capsys.readouterr().out


def test_names_that_differ_in_case_or_look_like_sql_are_kept() -> None:
    odd = {"a": NUMBERS, "A": WHOLE, 'x"); DROP TABLE rows; --': NUMBERS * 2, "c0": NUMBERS + 1}
    table(**odd).to_csv("table.csv", index=False)
    schema = inferred("table.csv")
    assert list(schema.columns) == ["other", *odd, "y"]
    ingest.store(schema, load_params().ingest)
    stored = tables.read_table(files.RAW)
    assert stored["A"].tolist() == WHOLE.tolist()
    assert stored["c0"].tolist() == (NUMBERS + 1).tolist()


def test_text_that_the_terminal_cannot_show_is_replaced(folder) -> None:
    cities = np.resize(["\u0141\u00f3d\u017a", "\u5317\u4eac", "\u0391\u03b8\u03ae"], ROWS)
    table(city=cities).to_csv("table.csv", index=False)
    code = "import mlops_loop, importlib; importlib.import_module('PACKAGE.project').main()"
    from .conftest import surrounding_project

    package = surrounding_project().model.partition(".")[0]
    command = [sys.executable, "-c", code.replace("PACKAGE", package)]
    done = subprocess.run(
        [*command, "schema", "infer", "table.csv", "--target", "y"],
        env={"PYTHONIOENCODING": "cp1252", "PATH": str(folder)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode("cp1252")
    assert b"city" in done.stdout
    assert load_schema().columns["city"].type == "category"


def test_rows_keep_their_order_and_files_their_bytes() -> None:
    rows = 5 * files.BATCH // 2
    big = pd.DataFrame({"place": np.arange(rows), "x": np.resize(NUMBERS, rows), "y": "a"})
    big["y"] = RANDOM.choice(["a", "b"], rows)
    big.to_csv("table.csv", index=False)
    schema = inferred("table.csv")
    sums = set[str]()
    for _ in range(3):
        ingest.store(schema, load_params().ingest)
        assert tables.read_table(files.RAW)["place"].tolist() == list(range(rows))
        sums.add(files.sha256(files.RAW))
    assert len(sums) == 1


def test_a_file_that_grows_while_it_is_read_is_refused(folder) -> None:
    rows = files.BATCH + 10
    pd.DataFrame({"x": range(rows), "y": "a"}).to_csv("table.csv", index=False)
    found = batches("table.csv")
    next(found)
    with Path("table.csv").open("a") as file:
        file.write("1,b\n")
    with pytest.raises(Failure, match=r"table\.csv changed while it was read"):
        list(found)


def test_a_parquet_file_that_is_damaged_in_the_middle_is_one_line(folder) -> None:
    table(x=NUMBERS).to_parquet("table.parquet")
    content = bytearray(Path("table.parquet").read_bytes())
    middle = len(content) // 3
    content[middle : middle + 400] = bytes(400)
    Path("damaged.parquet").write_bytes(content)
    Path("cut.parquet").write_bytes(content[: len(content) // 2])
    for name in ("damaged.parquet", "cut.parquet"):
        with pytest.raises(Failure, match=name) as failure:
            list(batches(name))
        assert "\n" not in str(failure.value)


def test_a_bad_line_at_the_end_of_a_long_file_is_named_and_nothing_is_written(folder) -> None:
    rows = 3 * files.BATCH
    table(x=NUMBERS).to_csv("table.csv", index=False)
    inferred("table.csv")
    pd.DataFrame({"other": 1.0, "x": np.resize(NUMBERS, rows), "y": "yes"}).to_csv(
        "table.csv", index=False
    )
    with Path("table.csv").open("a") as file:
        file.write("1,2,yes,4\n")
    with pytest.raises(Failure, match=f"line {rows + 2:,}: 4 fields, but the header has 3"):
        ingest.store(load_schema(), load_params().ingest)
    assert not files.RAW.exists()


def test_very_many_categories_and_columns(folder) -> None:
    rows = 1_000_000
    wide = pd.DataFrame(
        {"name": [f"n{place}" for place in range(rows)], "x": np.arange(rows) % 977}
    )
    wide.assign(y=np.where(wide["x"] > 400, "a", "b"), z=np.arange(rows) % 13).to_parquet(
        "t.parquet"
    )
    columns = inferred("t.parquet").columns
    assert columns["name"].role == "id"
    Path("wide.csv").write_text(",".join(f"c{place}" for place in range(5000)) + "\n" + "1," * 4999)
    with pytest.raises(Failure, match="5,000 columns, the limit is 2,000"):
        inferred("wide.csv")


def test_a_database_that_goes_away_in_the_middle_leaves_nothing(folder, monkeypatch) -> None:
    engine = sa.create_engine("sqlite:///warehouse.db")
    found = table(x=NUMBERS)
    found.to_sql("t", engine, index=False)
    found.to_csv("table.csv", index=False)
    schema = inferred("table.csv")
    monkeypatch.setenv("WAREHOUSE", "sqlite:///warehouse.db")
    # The last row has an error that only reading it raises, as a lost connection would.
    sql = (
        "SELECT other, CASE WHEN rowid = 299 THEN abs(-9223372036854775808) ELSE x END x, y FROM t"
    )
    params = load_params().ingest.model_copy(update={"source": Sql(sql=sql, url_env="WAREHOUSE")})
    with pytest.raises(Failure, match="the query on WAREHOUSE failed: integer overflow"):
        ingest.store(schema, params)
    assert not files.RAW.exists()


def test_a_readers_failure_is_its_own(monkeypatch, folder) -> None:
    table(x=NUMBERS).to_csv("table.csv", index=False)
    schema = inferred("table.csv")

    def reader(*_: object):
        yield pa.table({"x": [1.0], "y": ["yes"]})
        raise Failure("the warehouse is closed")

    monkeypatch.setattr(ingest.project, "load", lambda _: reader)
    with pytest.raises(Failure, match="the warehouse is closed"):
        ingest.store(schema, load_params().ingest)
    assert not files.RAW.exists()


def test_columns_of_several_kinds_are_checked_value_by_value() -> None:
    values = pd.Series([1, 2.5, "3", True, None, [1], "far", float("nan")], dtype=object)
    columns = {"x": Column(type="number", nullable=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        typed, reasons = check_rows(pd.DataFrame({"x": values}), columns)
    assert typed["x"].tolist()[:3] == [1, 2.5, 3]
    assert reasons.eq("").tolist() == [True, True, True, False, True, False, False, True]
