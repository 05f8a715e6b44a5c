"""The contract is said once: what is changed in it changes everywhere."""

import mlflow
import onnxruntime
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Column, load_schema
from mlops_loop.data.checks import expectations
from mlops_loop.monitoring.drift import numeric_columns
from mlops_loop.serving.app import create_app
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session

from .conftest import change, run_stages

STAGES = "ingest", "validate", "split", "train", "evaluate", "export"


def api_schemas() -> dict:
    api = TestClient(create_app(), "http://127.0.0.1")
    return api.get("/openapi.json").json()["components"]["schemas"]


def places() -> dict[str, set[str]]:
    """The columns that each place knows that follows from the contract."""
    schema = load_schema()
    graph = onnxruntime.InferenceSession(files.BUNDLE / "model.onnx")
    with session(load_settings()) as client:
        run = client.get_run(runs.record_training(client))
    signature = mlflow.models.get_model_info(run.data.tags["model_uri"]).signature
    card = (files.BUNDLE / "card.md").read_text(encoding="utf-8").splitlines()
    rules = expectations(schema, schema.used, schema.used)
    return {
        "Great Expectations": {rule.column for rule in rules if hasattr(rule, "column")},
        "request type": set(api_schemas()["Row"]["properties"]),
        "example": set(api_schemas()["Rows"]["example"]["rows"][0]),
        "Evidently": set(numeric_columns(schema)),
        "MLflow": set(signature.inputs.input_names()),
        "ONNX": {given.name for given in graph.get_inputs()},
        "slices": set(pd.read_csv(files.SLICES)["column"]),
        "model card": {line.split("|")[1].strip() for line in card if line.startswith("|")},
    }


def test_one_line_is_followed_everywhere(project) -> None:
    schema = load_schema()
    names = [key for key in schema.categorical if key.isidentifier() and key not in schema.unique]
    if not names or len(schema.features) < 2:
        pytest.skip("needs a feature with categories, and another one")
    change(files.SCHEMA, "columns", names[0], slice=True, description="What <it> is")
    change(files.PARAMS, "evaluate", min_slice_rows=1, baseline_by=None)
    run_stages(*STAGES)
    assert [place for place, columns in places().items() if names[0] not in columns] == []
    described = api_schemas()["Row"]["properties"][names[0]]["description"]
    assert described.startswith("What <it> is")

    change(files.SCHEMA, "columns", names[0], role="ignored")
    run_stages(*STAGES)
    assert [place for place, columns in places().items() if names[0] in columns] == []


TEXT = {"type": "category", "categories": ["a", "b"]}
WRONG = [
    ("targett", {"targett": "x"}, "Extra inputs"),
    ("target", {"target": "no such"}, "role target belongs to 'no such' alone"),
    ("unique", {"unique": ["no such"]}, r"names \['no such'\], which `columns` lacks"),
    ("task", {"task": "clustering"}, "Input should be"),
    ("max_shift", {"max_shift": 2}, "Input should be less than"),
    ("missing", {"missing": ["", "b"]}, "names 'b', which is a category of 'extra'"),
]


@pytest.mark.parametrize(("key", "values", "reason"), WRONG)
def test_a_contradiction_in_the_table_names_file_line_and_key(project, key, values, reason) -> None:
    change(files.SCHEMA, "columns", extra=TEXT)
    change(files.SCHEMA, **values)
    with pytest.raises(Failure, match=rf"^schema\.yaml, line \d+: {key}: {reason}"):
        load_schema()


COLUMNS = [
    ({"type": "id"}, "a column of type id cannot be a feature"),
    ({"type": "number", "categories": ["a"]}, "`categories` goes with type category, and only"),
    ({"type": "category", "categories": ["a", "a"]}, "`categories` names a value twice"),
    ({"type": "number", "minimum": 2, "maximum": 1}, "minimum 2 is above maximum 1"),
    ({"type": "boolean", "maximum": 1}, "`minimum` and `maximum` go with type number or integer"),
    ({"type": "number", "allow_unknown": True}, "`allow_unknown` goes with a category that is not"),
    ({"type": "number", "max_null": 0.5}, "`max_null` goes with `nullable: true` only"),
    ({"type": "integer", "minimum": 0.2, "maximum": 0.7}, "no integer is between 0.2 and 0.7"),
    ({"type": "number", "format": "%Y"}, "`format` goes with type timestamp only"),
]


@pytest.mark.parametrize(("values", "reason"), COLUMNS)
def test_a_contradiction_in_a_column_names_file_line_and_key(project, values, reason) -> None:
    change(files.SCHEMA, "columns", extra=values)
    lines = files.SCHEMA.read_text(encoding="utf-8").splitlines()
    with pytest.raises(Failure) as failed:
        load_schema()
    line = lines.index("  extra:") + 1
    assert str(failed.value).startswith(f"schema.yaml, line {line}: columns.extra: {reason}")


def test_a_key_that_stands_twice_is_refused(project) -> None:
    with files.SCHEMA.open("a", encoding="utf-8") as file:
        file.write("\nmin_rows: 5\n")
    with pytest.raises(Failure, match=r"line \d+: the key 'min_rows' is there twice"):
        load_schema()


def test_old_names_of_keys_go_on_being_read() -> None:
    keys = {"type": "category", "categories": ["a"]}
    old = Column.model_validate(keys | {"unseen": True, "sensitive": True})
    assert old == Column.model_validate(keys | {"allow_unknown": True, "pii": True})
