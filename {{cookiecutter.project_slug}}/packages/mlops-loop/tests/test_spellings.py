"""Tables as people and programs write them: `schema infer` on what is spelled in other ways."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import Sql, load_params
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data import ingest, tables, validate
from mlops_loop.data.cast import check_table
from mlops_loop.data.source.read import batches
from mlops_loop.onboarding.infer.main import infer

from .conftest import ROOT, change, surrounding_project

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


def write(kind: str = "csv", sep: str = ",", **columns: object) -> pd.DataFrame:
    """Write table.csv or table.parquet; return the table."""
    found = pd.DataFrame({"y": LABELS, "other": NUMBERS[::-1]} | columns)
    if kind == "csv":
        found.to_csv("table.csv", index=False, sep=sep)
    else:
        found.to_parquet("table.parquet", index=False)
    return found


def written(sep: str = ",", **columns: object) -> dict[str, Column]:
    """Return what is inferred of columns of a CSV file."""
    write(sep=sep, **columns)
    found = inferred("table.csv").columns
    return {name: found[name] for name in columns}


def ingested() -> pd.DataFrame:
    ingest.store(load_schema(), load_params().ingest)
    return tables.read_table(files.RAW)


def german(number: float) -> str:
    return f"{number:,.2f}".translate(str.maketrans(",.", ".,"))


def test_a_number_is_a_number_and_some_texts_stand_for_a_missing_one() -> None:
    spells = [str, "{:e}".format, " {} ".format, "+{:.3f}".format]
    columns = {f"x{n}": [spell(abs(x)) for x in NUMBERS] for n, spell in enumerate(spells)}
    stands = [r"\N", "<NA>", "NaT", "(null)", "#DIV/0!", "#N/A", "NULL", "nan", "NA", "-", "?"]
    missing = {
        text: [text if place % 50 == 7 else x for place, x in enumerate(NUMBERS)] for text in stands
    }
    for name, column in written(**columns, **missing).items():
        assert (column.type, column.role) == ("number", "feature")
        assert column.nullable == (name in stands)


def test_a_decimal_comma_is_read() -> None:
    grades = RANDOM.choice([1, 1.3, 1.7, 2], ROWS)
    columns = {
        "plain": [str(number).replace(".", ",") for number in NUMBERS],
        "grouped": [german(number * 1000) for number in NUMBERS],
        "grades": [f"{grade:.1f}".replace(".", ",") for grade in grades],
        "gaps": [german(number) if number > 2 else "#DIV/0!" for number in NUMBERS],
    }
    for column in written(";", **columns).values():
        assert (column.type, column.role, column.decimal) == ("number", "feature", ",")
    found = ingested()
    for name, values in columns.items():
        wanted = [float(v.replace(".", "").replace(",", ".")) for v in values if "#" not in v]
        assert found[name].dropna().tolist() == wanted
    schema = inferred("table.csv", "grouped")
    assert (schema.task, schema.columns["grouped"].decimal) == ("regression", ",")


def test_numbers_in_other_spellings_are_said_and_never_ids(capsys) -> None:
    forms = ["{:,}", "{} %", "CHF {}", "{} EUR", "${}", "({})", "{}-", "\u2212{}", "{} kg"]
    columns = {f"x{n}": [form.format(x) for x in WHOLE] for n, form in enumerate(forms)}
    columns["quoted"] = [text.replace(",", "'") for text in columns["x0"]]
    columns["thin"] = [text.replace(",", "\u202f") for text in columns["x0"]]
    columns["total"] = [str(n) if n % 7 else "Total" for n in WHOLE]
    columns["note"] = [str(n) if n != WHOLE[200] else "see note" for n in WHOLE]
    assert {column.role for column in written(**columns).values()} == {"ignored"}
    said = capsys.readouterr().out
    for name, values in columns.items():
        place = next(place for place, text in enumerate(values) if not text.isdigit())
        (line,) = [line for line in said.splitlines() if line.startswith(f"look at   {name!r}")]
        assert "numbers, but for " in line
        assert f"{values[place]!r} (row {place + 1})" in line
        with pytest.raises(Failure, match=f"{name!r} holds numbers, but for .*row {place + 1}"):
            inferred("table.csv", name)


def test_a_total_below_the_table_is_said(folder, capsys) -> None:
    numbered = write(x=WHOLE).reset_index(names="count")
    total = pd.DataFrame({"count": ["Total"], "y": ["600"]})
    pd.concat([numbered, total]).to_csv("table.csv", index=False)
    schema = inferred("table.csv")
    assert schema.columns["count"].role == "ignored"
    assert "'Total' (row 301)" in capsys.readouterr().out
    assert schema.classes == ["no", "yes"]


def test_codes_and_categories_stay_what_they_are() -> None:
    codes = [f"{value:05d}" for value in RANDOM.integers(0, 9000, 40)]
    found = written(
        more=RANDOM.choice(["0", "1", "2", "3+"], ROWS),
        codes=RANDOM.choice(codes, ROWS),
        address=[f"10.0.{place % 20}.1" for place in range(ROWS)],
        country=RANDOM.choice(["NA", "DE", "FR"], ROWS),
    )
    assert {column.type for column in found.values()} == {"category"}
    assert found["more"].categories == ("0", "1", "2", "3+")
    assert found["country"].categories == ("DE", "FR", "NA")
    assert not found["country"].nullable


def test_what_tells_which_row_it_is_is_an_id() -> None:
    place = np.sort(RANDOM.choice(ROWS * 40, ROWS, replace=False))
    rows = ["Unnamed: 0", "", "X", "#", "level_0", "row", "Column1"]
    columns = dict.fromkeys(rows, place)
    numbers = RANDOM.choice(10**9, ROWS, replace=False)
    ids = ["order_no", "invoice_number", "ID_code", "id_student", "rowid", "Nr.", "customerKey"]
    columns |= dict.fromkeys(ids, numbers) | {"dense": RANDOM.choice(ROWS * 9, ROWS, False)}
    sparse = RANDOM.choice(10**6, ROWS, replace=False)
    measures = {"sparse": sparse, "num_rooms": sparse // 7}
    found = pd.DataFrame(columns | measures | {"y": LABELS})
    found[["", *found.columns.drop("")]].to_csv("table.csv", index=False)
    roles = {name: column.role for name, column in inferred("table.csv").columns.items()}
    assert {roles[name or "index"] for name in columns} == {"id"}
    assert {roles[name] for name in measures} == {"feature"}
    index = pd.Index(RANDOM.choice(10**7, ROWS, replace=False) / 8, name="place")
    write().set_index(index).to_parquet("table.parquet")
    assert inferred("table.parquet").columns["place"].role == "id"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_whole_numbers_beyond_floats_are_ids_in_every_format(kind: str) -> None:
    values = pd.Series(RANDOM.integers(2**61, 2**62, ROWS))
    kept = ("uint64", "int64", "float64")
    write(kind, **{name: values.astype(name) for name in kept})
    columns = inferred(f"table.{kind}").columns
    assert {columns[name].role for name in kept} == {"id"}


ONES = RANDOM.integers(0, 2, ROWS)
SPELLED_LABELS = {
    "whole": ONES,
    "float": ONES.astype(float),
    "text": ONES.astype(str),
    "gaps": [None if place < 9 else float(label) for place, label in enumerate(ONES)],
    "decimals": [f"{label}.00" for label in ONES],
}


@pytest.mark.parametrize("labels", SPELLED_LABELS.values(), ids=SPELLED_LABELS)
@pytest.mark.parametrize(("kind", "other"), [("csv", "parquet"), ("parquet", "csv")])
def test_classes_of_numbers_have_one_name_however_they_are_written(labels, kind, other) -> None:
    write("csv", y=labels)
    write("parquet", y=labels)
    schema = inferred(f"table.{kind}")
    assert (schema.classes, schema.positive) == (["0", "1"], "1")
    change(files.PARAMS, "ingest", source=f"table.{other}")
    wanted = pd.Series(labels).dropna().astype(float).astype(int).astype(str)
    assert ingested()["y"].dropna().tolist() == wanted.tolist()


def test_old_contracts_keep_their_spelling_and_007_stays_a_text() -> None:
    old = Column(type="category", categories=("0.0", "1.0"))
    typed, reasons = check_table(pa.table({"x": ["0", "1.00", "+1", "2", "01"]}), {"x": old})
    assert typed["x"].to_pylist()[:3] == ["0.0", "1.0", "1.0"]
    assert (reasons == "").tolist() == [True, True, True, False, False]
    coded = Column(type="category", categories=("007", "7"))
    _, reasons = check_table(pa.table({"x": ["007", "7", "7.0"]}), {"x": coded})
    assert (reasons == "").tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_truth_values_have_one_name(kind: str) -> None:
    flag = pd.Series(np.where(NUMBERS > 5, "TRUE", "FALSE")).mask(NUMBERS > 8, "nan")
    write(kind, y=LABELS == "yes", flag=flag)
    schema = inferred(f"table.{kind}")
    assert schema.classes == ["false", "true"]
    assert (schema.columns["flag"].type, schema.columns["flag"].nullable) == ("boolean", True)


@pytest.mark.parametrize("text", ["nan", "NULL", "NA", r"\N", "N/A", "?"])
def test_a_missing_label_is_no_class(text: str) -> None:
    write(y=np.where(np.arange(ROWS) < 20, text, LABELS))
    schema = inferred("table.csv")
    assert schema.classes == ["no", "yes"]
    assert schema.columns["y"].nullable
    assert f"the 20 rows without it or with {text!r}" in files.SCHEMA.read_text("utf-8")
    assert ingested()["y"].isna().sum() == 20


def test_a_label_that_is_a_word_stays_a_class_and_blanks_are_said(capsys) -> None:
    write(y=RANDOM.choice(["none", "mild", "mild ", "severe"], ROWS))
    assert inferred("table.csv").classes == ["mild", "mild ", "none", "severe"]
    assert "'mild' and 'mild ' in 'y' differ only" in capsys.readouterr().out


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
def test_times_that_are_whole_numbers_are_no_features(kind: str, capsys) -> None:
    write(kind, **{f"created {form}": values for form, values in NUMBERED.items()})
    columns = inferred(f"table.{kind}").columns
    for form in NUMBERED:
        name = f"created {form}"
        assert columns[name].role == "ignored"
        assert f"--timestamp '{name}'" in " ".join(files.SCHEMA.read_text("utf-8").split())
        inferred(f"table.{kind}", timestamp=name)
        stored = ingested()[name].dt.floor("s")
        wanted = WHEN.dt.normalize() if form in ("%Y%m%d", "excel") else WHEN
        assert (stored == wanted.to_numpy()).all()


FORMS = ["%d-%b-%y", "%m/%d/%Y %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S,%f", "%Y-%m-%d %H:%M:%S CET"]
FORMS += ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+02:00", "%b %d, %Y", "%Y/%m/%d %H:%M"]


@pytest.mark.parametrize("form", FORMS)
def test_times_in_usual_texts_are_read(form: str) -> None:
    write(when=WHEN.dt.strftime(form).mask(np.arange(ROWS) == 5, "0000-00-00"))
    assert inferred("table.csv", timestamp="when").columns["when"].nullable
    stored = ingested()["when"]
    assert stored.isna().sum() == 1
    exact = WHEN.dt.floor("s" if "%S" in form else "min" if "%M" in form else "D")
    zones = 2 if form.endswith("CET") else 0
    away = (stored - exact + pd.Timedelta(hours=2 if "+02" in form else 0)).dropna().abs()
    assert (away <= pd.Timedelta(hours=zones)).all()


def test_a_year_has_no_maximum() -> None:
    years = RANDOM.integers(2015, 2026, ROWS)
    found = written(x=years, year=years)
    assert (found["x"].maximum is not None, found["year"].maximum) == (True, None)
    assert found["year"].role == "feature"


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


def test_names_that_differ_in_case_or_look_like_sql_are_kept() -> None:
    odd = {"a": NUMBERS, "A": WHOLE, 'x"); DROP TABLE rows; --': NUMBERS * 2, "c0": NUMBERS + 1}
    assert list(written(**odd)) == list(odd)
    stored = ingested()
    assert stored["A"].tolist() == WHOLE.tolist()
    assert stored["c0"].tolist() == (NUMBERS + 1).tolist()
    stored.assign(A=-(10**9)).to_parquet(files.RAW)
    with pytest.raises(Refusal, match="  A: column values to be between"):
        validate.main()


def test_text_that_the_terminal_cannot_show_is_replaced(folder) -> None:
    cities = np.resize(["\u0141\u00f3d\u017a", "\u5317\u4eac", "\u0391\u03b8\u03ae"], ROWS)
    write(city=cities)
    package = surrounding_project().model.partition(".")[0]
    code = f"import importlib; importlib.import_module('{package}.project').main()"
    command = [sys.executable, "-c", code, "schema", "infer", "table.csv", "--target", "y"]
    environment = {"PYTHONIOENCODING": "cp1252", "PATH": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("cp1252")
    assert b"city" in done.stdout
    assert load_schema().columns["city"].type == "category"


def test_rows_keep_their_order_and_files_their_bytes() -> None:
    rows = 5 * files.BATCH // 2
    big = pd.DataFrame({"place": range(rows), "x": np.resize(NUMBERS, rows)})
    big.assign(y=RANDOM.choice(["a", "b"], rows)).to_csv("table.csv", index=False)
    inferred("table.csv")
    sums = set[str]()
    for _ in range(2):
        assert ingested()["place"].tolist() == list(range(rows))
        sums.add(files.sha256(files.RAW))
    assert len(sums) == 1


def test_a_file_that_grows_while_it_is_read_is_refused(folder) -> None:
    rows = files.BATCH + 10
    pd.DataFrame({"x": range(rows), "y": "a"}).to_csv("table.csv", index=False)
    found = iter(batches("table.csv"))
    next(found)
    with Path("table.csv").open("a") as file:
        file.write("1,b\n")
    with pytest.raises(Failure, match=r"table\.csv changed while it was read"):
        list(found)


def test_a_parquet_file_that_is_damaged_in_the_middle_is_one_line(folder) -> None:
    write("parquet", x=NUMBERS)
    content = bytearray(Path("table.parquet").read_bytes())
    middle = len(content) // 3
    content[middle : middle + 400] = bytes(400)
    for name, kept in (("damaged.parquet", len(content)), ("cut.parquet", len(content) // 2)):
        Path(name).write_bytes(content[:kept])
        with pytest.raises(Failure, match=name) as failure:
            list(batches(name))
        assert "\n" not in str(failure.value)


def test_a_bad_line_at_the_end_of_a_long_file_is_named_and_nothing_is_written(folder) -> None:
    rows = 3 * files.BATCH
    written(x=NUMBERS)
    long = pd.DataFrame({"y": "yes", "other": 1.0, "x": np.resize(NUMBERS, rows)})
    long.to_csv("table.csv", index=False)
    with Path("table.csv").open("a") as file:
        file.write("yes,1,2,4\n")
    with pytest.raises(Failure, match=f"line {rows + 2:,}: 4 fields, but the header has 3"):
        ingested()
    assert not files.RAW.exists()


def test_very_many_categories(folder) -> None:
    rows = 1_000_000
    columns = {"name": [f"n{place}" for place in range(rows)], "x": np.arange(rows) % 977}
    wide = pd.DataFrame(columns | {"z": np.arange(rows) % 13})
    wide.assign(y=np.where(wide["x"] > 400, "a", "b")).to_parquet("t.parquet")
    assert inferred("t.parquet").columns["name"].role == "id"


def test_a_database_that_goes_away_in_the_middle_leaves_nothing(folder, monkeypatch) -> None:
    written(x=NUMBERS)
    pd.read_csv("table.csv").to_sql("t", sa.create_engine("sqlite:///warehouse.db"), index=False)
    monkeypatch.setenv("WAREHOUSE", "sqlite:///warehouse.db")
    # The last row has an error that only reading it raises, as a lost connection would.
    lost = "CASE WHEN rowid = 299 THEN abs(-9223372036854775808) ELSE x END x"
    source = Sql(sql=f"SELECT other, {lost}, y FROM t", url_env="WAREHOUSE")
    params = load_params().ingest.model_copy(update={"source": source})
    with pytest.raises(Failure, match="the query on WAREHOUSE failed: integer overflow"):
        ingest.store(load_schema(), params)
    assert not files.RAW.exists()


def test_an_own_reader_may_give_gaps_first_and_its_failure_is_its_own(monkeypatch, folder) -> None:
    written(x=NUMBERS)
    gaps = pa.table({"y": ["yes"], "other": [1], "x": pa.nulls(1)})
    given = [gaps, pa.table({"y": ["no"], "other": [2], "x": [1.5]})]
    monkeypatch.setattr(ingest.project, "load", lambda _: lambda *_: iter(given))
    assert ingested()["x"].tolist()[1:] == [1.5]
    files.RAW.unlink()

    def reader(*_: object):
        yield gaps
        raise Failure("the warehouse is closed")

    monkeypatch.setattr(ingest.project, "load", lambda _: reader)
    with pytest.raises(Failure, match="the warehouse is closed"):
        ingested()
    assert not files.RAW.exists()
