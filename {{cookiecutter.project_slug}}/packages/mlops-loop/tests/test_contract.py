"""The contract is said once: what is changed in it changes everywhere."""

import mlflow
import onnxruntime
import pandas as pd
import pytest
import yaml
from fastapi.testclient import TestClient

from mlops_loop.base import files
from mlops_loop.base.config import parse_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Column, Schema, load_schema
from mlops_loop.data.checks import expectations
from mlops_loop.monitoring.drift import numeric_columns
from mlops_loop.serving.app import create_app
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session

from .conftest import STAGES, change, run_stages
from .made_up import raw_contract


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


TABLES = [
    ("targett", {"targett": "x"}, "Extra inputs"),
    ("target", {"target": "no such"}, "role target belongs to 'no such' alone"),
    ("unique", {"unique": ["no such"]}, r"names \['no such'\], which are no columns"),
    ("task", {"task": "clustering"}, "Input should be"),
    ("target", {"task": "multiclass-classification"}, ".* has three or more `categories`"),
    ("max_shift", {"max_shift": 2}, "Input should be less than"),
    ("missing", {"missing": ["", "yes"]}, "names 'yes', which is a category of 'target'"),
]
COLUMNS = [
    ({"type": "id"}, "a column of type id cannot be a feature"),
    ({"type": "number", "categories": ["a"]}, "`categories` goes with type category, and only"),
    ({"type": "category"}, "type category needs `categories`"),
    ({"type": "category", "categories": ["a", "a"]}, "`categories` names a value twice"),
    ({"type": "number", "minimum": 2, "maximum": 1}, "minimum 2 is above maximum 1"),
    ({"type": "boolean", "minimum": 0}, "`minimum` goes with type number or integer only"),
    ({"type": "number", "allow_unknown": True}, "`allow_unknown` goes with a category that is not"),
    ({"type": "number", "max_null": 0.5}, "`max_null` goes with `nullable: true` only"),
    ({"type": "integer", "minimum": 0.2, "maximum": 0.7}, "no integer is between 0.2 and 0.7"),
    ({"type": "number", "format": "%Y"}, "`format` goes with type timestamp only"),
    ({"type": "number", "role": "slice", "pii": True}, "`pii` goes with what the API takes"),
    ({"type": "number", "role": "input", "derived": True}, "a derived column is a feature or a"),
]
WRONG = [(key, {}, values, reason) for key, values, reason in TABLES]
WRONG += [("columns.extra", {"extra": column}, {}, reason) for column, reason in COLUMNS]


@pytest.mark.parametrize(("key", "columns", "values", "reason"), WRONG)
def test_a_contradiction_names_file_line_and_key(key, columns, values, reason) -> None:
    given = raw_contract("binary-classification", {"x": {"type": "number"}, **columns}) | values
    text = yaml.safe_dump(given, sort_keys=False)
    start = f"{'  ' * key.count('.')}{key.rpartition('.')[2]}:"
    (line,) = (n for n, it in enumerate(text.splitlines(), 1) if it.startswith(start))
    with pytest.raises(Failure, match=rf"^schema\.yaml, line {line}: {key}: {reason}"):
        parse_yaml(text, "schema.yaml", Schema)


def test_old_names_of_keys_go_on_being_read() -> None:
    keys = {"type": "category", "categories": ["a"]}
    old = Column.model_validate(keys | {"unseen": True, "sensitive": True})
    assert old == Column.model_validate(keys | {"allow_unknown": True, "pii": True})
