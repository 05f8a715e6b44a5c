"""Derived features: one function in training and in serving, and what happens where it is wrong."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from mlops_loop.base import files
from mlops_loop.base import project as plugins
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.settings import load_settings
from mlops_loop.batch.score import score
from mlops_loop.contract import versions
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.data.derived import derive, refuse_impure
from mlops_loop.monitoring.monitoring_window import features_of, logged_features
from mlops_loop.scoring.bundle import (
    MANIFEST,
    PROMOTION,
    Manifest,
    open_bundle,
    read_document,
    write_manifest,
)
from mlops_loop.scoring.derived import DeriveError, as_array, open_deriver
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import load, scores
from mlops_loop.serving.app import create_app
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training import export

from .conftest import edit

Derive = Callable[[Any], Any]
DERIVED, SLICE = {"derived": True}, {"role": "slice"}
CONTRACT = Schema.model_validate(
    {
        "name": "t",
        "task": "regression",
        "target": "y",
        "columns": {
            "y": {"type": "number", "role": "target"},
            "at": {"type": "timestamp", "role": "input", "nullable": True},
            "who": {"type": "category", "categories": ["a", "b"], "nullable": True},
            "on": {"type": "boolean"},
            "x": {"type": "number", "nullable": True},
            "twice": {"type": "number", "derived": True, "maximum": 10, "nullable": True},
            "hour": {"type": "integer", "minimum": 0, "maximum": 23, "nullable": True, **DERIVED},
            "side": {"type": "category", "categories": ["left", "right"], **DERIVED, **SLICE},
        },
    }
)
TABLE = pd.DataFrame(
    {
        "at": pd.to_datetime(
            ["2024-02-29T13:59:59.9", None, "1969-12-31T23:30:00"], format="ISO8601"
        ),
        "who": ["a", None, "b"],
        "on": [True, False, True],
        "x": [0.1, None, -3.0],
        "y": [1.0, 2.0, 3.0],
    }
)


def good(columns: Any) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore"):
        hour = (columns["at"] - columns["at"].astype("datetime64[D]")) // np.timedelta64(1, "h")
    known = ~np.isnat(columns["at"])
    return {
        "twice": columns["x"] * 2,
        "hour": np.where(known, hour, np.nan),
        "side": np.where(columns["on"], "left", "right"),
    }


def use_derive(monkeypatch: pytest.MonkeyPatch, target: str | None) -> None:
    mine = replace(plugins.current_project(), derive=target)
    monkeypatch.setenv(plugins.VARIABLE, json.dumps(mine.__dict__))


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Derive], None]:
    """Let the project name a function as its `derive`."""
    use_derive(monkeypatch, "mine:derive")

    def plug_in(function: Derive) -> None:
        monkeypatch.setattr(plugins, "function", lambda *_: function)

    return plug_in


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project's features.py in a file of the test's own, read anew when it is loaded."""
    name = plugins.current_project().derive
    if name is None:
        pytest.skip("the project derives no features")
    original = Path(str(import_module(name.partition(":")[0]).__file__))
    file = tmp_path / "own_features.py"
    file.write_text(original.read_text("utf-8"), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    # Python's cache knows a file by second and size, which an edit of one digit leaves alike.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    use_derive(monkeypatch, "own_features:derive")
    yield file
    forget()


def forget() -> None:
    """Let the next load read the module again."""
    sys.modules.pop("own_features", None)
    plugins.function.cache_clear()


def test_the_function_gets_numpy_columns_in_the_types_of_the_contract(plugged_in) -> None:
    seen: dict[str, np.ndarray] = {}

    def look(given_: Any) -> dict[str, np.ndarray]:
        seen.update(given_)
        with pytest.raises(ValueError, match="read-only"):
            given_["x"][0] = 7
        return good(given_)

    plugged_in(look)
    found = derive(TABLE, CONTRACT)
    types = {"at": "datetime64[s]", "who": "object", "on": "bool", "x": "float32"}
    assert {name: str(array.dtype) for name, array in seen.items()} == types
    assert list(seen["who"]) == ["a", None, "b"]
    assert np.isnan(seen["x"][1])
    assert list(found["hour"].fillna(-1)) == [13, -1, 23]
    assert list(found["side"]) == ["left", "right", "left"]
    rows = [None if pd.isna(value) else value for value in TABLE["who"]]
    online = {"at": [at.to_pydatetime() if at == at else None for at in TABLE["at"]], "who": rows}
    online |= {"on": list(TABLE["on"]), "x": [0.1, None, -3.0]}
    again = open_deriver(CONTRACT)(online)
    for name in found:
        same = pd.Series(again[name]).astype(found[name].dtype)
        pd.testing.assert_series_equal(same, found[name], check_names=False)


WRONG: list[tuple[Derive, str]] = [
    (lambda c: 1 / 0, "mine:derive failed: ZeroDivisionError: division by zero"),
    (lambda c: sys.exit(3), "mine:derive failed: SystemExit: 3"),
    (lambda c: c["y"], "mine:derive failed: KeyError: 'y'"),
    (lambda c: [1], "must return a dictionary of columns, and returned list"),
    (lambda c: {**good(c), "twice": 7.0}, "'twice' as an array with a value for each row"),
    (lambda c: {**good(c), "twice": c["x"][:1]}, r"of shape \(3,\), and returned \(1,\)"),
    (lambda c: {**good(c), "twice": c["at"]}, r"'twice' as number, and returned datetime64\[s\]"),
    (lambda c: {**good(c), "side": c["x"]}, "'side' as category, and returned float32"),
    (lambda c: {"twice": c["x"]}, "does not return 'hour', which schema.yaml declares as derived"),
]


@pytest.mark.parametrize(("wrong", "line"), WRONG)
def test_what_is_no_column_is_one_line_that_names_the_function(plugged_in, wrong, line) -> None:
    plugged_in(wrong)
    with pytest.raises(DeriveError, match=line) as failed:
        derive(TABLE, CONTRACT)
    assert str(failed.value).startswith("mine:derive ")
    assert "\n" not in str(failed.value)


def test_values_that_the_contract_forbids_are_told(plugged_in) -> None:
    plugged_in(lambda c: {**good(c), "twice": c["x"] * 200, "side": np.array(["left", "up", None])})
    deriver = open_deriver(CONTRACT)
    derived = deriver({name: TABLE[name].to_numpy() for name in ("at", "x", "on")})
    for times in (1, 50):  # as many rows as are looked at one by one, and more
        many = {name: np.tile(values, times) for name, values in derived.items()}
        assert len(found := deriver.breaches(many)) == 3 * times
        assert sorted(found)[:3] == [
            (0, "twice", "is out of range"),
            (1, "side", "is not one of the categories"),
            (2, "side", "is missing"),
        ]


IMPURE: list[tuple[Derive, str]] = [
    (lambda c: {"twice": c["x"] - np.nanmean([*c["x"], 1])}, "'twice' of a row by other rows"),
    (lambda c: {"twice": np.random.rand(len(c["x"]))}, "gives 'twice' differently each time"),
    (lambda c: {"twice": c["x"] * 3}, r"other values of 'twice' than mine:derive.*dvc repro"),
    (lambda c: {"thrice": c["x"]}, "returns 'thrice', which schema.yaml does not declare"),
]


@pytest.mark.parametrize(("impure", "line"), IMPURE)
def test_training_refuses_what_depends_on_other_rows_or_on_chance(plugged_in, impure, line) -> None:
    plugged_in(good)
    rows = TABLE.join(derive(TABLE, CONTRACT))
    refuse_impure(rows, CONTRACT)
    plugged_in(lambda c: good(c) | impure(c))
    with pytest.raises(Failure, match=line):
        refuse_impure(rows, CONTRACT)


def test_a_derived_column_needs_a_function_with_the_right_signature(monkeypatch, tmp_path) -> None:
    use_derive(monkeypatch, None)
    with pytest.raises(Failure, match="derive is missing: name it"):
        open_deriver(CONTRACT)
    (tmp_path / "other_features.py").write_text("def derive(rows, seed): ...\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    use_derive(monkeypatch, "other_features:derive")
    line = r"other_features:derive\(rows, seed\) must take derive\(columns\)"
    with pytest.raises(Failure, match=line):
        open_deriver(CONTRACT)


MADE_BY = [
    (None, ""),
    ("1.0", ""),
    (versions.VERSION, ""),
    ("0.9", "reads 1.0 and later: follow the template's docs/migrate.md"),
    ("99.1.2", "this is .*: install that one"),
    ("new", "'new' is no version of mlops-loop"),
]


@pytest.mark.parametrize(("made_by", "problem"), MADE_BY)
def test_versions_shake_hands(project, made_by, problem) -> None:
    lines = files.SCHEMA.read_text("utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("mlops_loop:")]
    lines += [f'mlops_loop: "{made_by}"'] * (made_by is not None)
    files.SCHEMA.write_text("\n".join(lines) + "\n", "utf-8")
    manifest = read_document(files.BUNDLE / MANIFEST, Manifest)
    write_manifest(files.BUNDLE, manifest.model_copy(update={"mlops_loop": made_by}))
    if not problem:
        assert load_schema().mlops_loop == made_by
        open_bundle(files.BUNDLE)
        return
    with pytest.raises(Failure, match=rf"^schema\.yaml, line \d+: mlops_loop: .*{problem}"):
        load_schema()
    with pytest.raises(Refusal, match=problem):
        open_bundle(files.BUNDLE)


def test_a_bundle_is_refused_whose_function_was_changed(project, own_module) -> None:
    forget()
    export.main()
    own_module.write_text(own_module.read_text("utf-8") + "\n# a comment\n", "utf-8")
    forget()
    open_scorer(open_bundle(files.BUNDLE))
    edit(own_module, "% 7", "% 6")
    forget()
    files.write_json(files.BUNDLE / PROMOTION, {"version": "3", "git_commit": "c0ffee" * 6})
    line = "own_features:derive gives .* It was made by commit c0ffeec0ffee: serve"
    tables.read_table(files.TEST).head(3).to_parquet("rows.parquet")
    for use in (create_app, partial(score, "rows.parquet", "scored.parquet")):
        with pytest.raises(Refusal, match=line):
            use()


def test_a_server_survives_a_function_that_fails(project, row, monkeypatch, caplog) -> None:
    if not load_schema().derived:
        pytest.skip("the project derives no features")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        deriver = client.app.state.service.model.scorer.derive
        right = deriver.function
        for wrong in (lambda c: 1 / 0, lambda c: {name: [1] for name in deriver.derived}):
            object.__setattr__(deriver, "function", wrong)
            answer = client.post("/v1/predict", json={"rows": [row]})
            assert answer.status_code == 500
            assert "log says why" in answer.json()["detail"]
        assert f"{deriver.name} failed: ZeroDivisionError" in caplog.text
        assert "derive_errors_total" in client.get("/metrics").text
        assert client.get("/health/ready").status_code == 200
        object.__setattr__(deriver, "function", right)
        assert client.post("/v1/predict", json={"rows": [row]}).status_code == 200


def test_a_request_is_told_why_a_column_is_no_input(client, row) -> None:
    schema = load_schema()
    served = plugins.current_project().name
    for name in [name for name in schema.columns if name not in schema.inputs]:
        answer = client.post("/v1/predict", json={"rows": [row, row | {name: "<script>"}]})
        assert answer.status_code == 422
        (detail,) = answer.json()["detail"]
        assert detail["loc"] == ["body", "rows", 1, name]
        assert detail["msg"].startswith(f"{name} is ")
        assert "<script>" not in answer.text
        tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": ["x"]}
        told = client.post(f"/v2/models/{served}/infer", json={"inputs": [tensor]})
        assert (told.status_code, name in told.json()["error"]) == (422, True)


def test_the_monitor_derives_again_what_the_log_does_not_hold(project) -> None:
    schema, rows = load_schema(), tables.read_sample(files.TEST, 200)
    found = features_of(pd.Series(tables.as_json(rows, schema)), schema)
    assert set(schema.derived) & set(schema.features) <= set(logged_features(schema))
    for name in logged_features(schema):
        known = rows[name].astype(found[name].dtype).reset_index(drop=True)
        pd.testing.assert_series_equal(found[name], known, check_names=False, check_exact=False)


LOADED = """
import json, sys
from fastapi.testclient import TestClient
from mlops_loop.serving.app import create_app
from mlops_loop.base.files import BUNDLE
example = json.loads((BUNDLE / "bundle.json").read_text())["example"]
with TestClient(create_app(), "http://127.0.0.1") as client:
    client.post("/v1/predict", json={"rows": [example]}).raise_for_status()
    client.get("/").raise_for_status()
    print(json.dumps(sorted(sys.modules)))
"""


def test_a_live_server_loads_the_features_and_no_training_library(project) -> None:
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not {"mlflow", "pandas", "sklearn", "pyarrow", "skops", "optuna"} & loaded
    assert not {"matplotlib", "markdown_it"} & loaded  # its page comes from templates alone
    mine = plugins.current_project()
    assert mine.derive is None or mine.derive.partition(":")[0] in loaded
    assert mine.model.partition(":")[0] not in loaded


def test_mlflow_serves_the_raw_inputs_with_the_same_answers(project, tmp_path) -> None:
    schema = load_schema()
    with session(load_settings()) as client:
        run = client.get_run(runs.record_training(client))
        import mlflow
        from mlflow.pyfunc.scoring_server import init

        uri = run.data.tags["model_uri"]
        folder = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "m"))
        served = TestClient(init(mlflow.pyfunc.load_model(folder)))
    assert not list(Path(folder).rglob("*.pkl"))
    rows = tables.read_sample(files.TEST, 20)
    body = {"dataframe_records": tables.as_json(rows, schema)}
    answer = served.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    found = pd.DataFrame(answer.json()["predictions"]).to_numpy()
    assert found == pytest.approx(scores(load(files.MODEL), rows, schema), rel=1e-6, abs=1e-6)


ZONES = st.none() | st.integers(-839, 839).map(lambda east: timezone(timedelta(minutes=east)))


@given(st.lists(st.none() | st.datetimes(timezones=ZONES), min_size=1))
def test_times_are_seconds_in_utc(times) -> None:
    """A list of datetimes is converted by hand, as NumPy is slow at it."""
    found = as_array(times, Column(role="input", type="timestamp", nullable=True))
    naive = [time and (time.astimezone(UTC) if time.tzinfo else time) for time in times]
    expected = [time and time.replace(tzinfo=None) for time in naive]
    assert found.tolist() == np.array(expected, "datetime64[s]").tolist()
