import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.batch.score import score
from mlops_loop.contract.schema import load_schema
from mlops_loop.data.cast import check_table
from mlops_loop.data.derived import with_derived
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.scoring.skops_model import load, scores

from .contract import invalid_rows, valid_rows
from .server import read_log

ANY = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


def numbers(answer: dict) -> list[float]:
    """The numbers in an answer: probabilities in the classes' order, or value and interval."""
    if "probabilities" in answer:
        return [answer["probabilities"][name] for name in sorted(answer["probabilities"])]
    return [answer["value"], *answer["interval"]]


def test_predictions_are_answered_and_logged(client, row) -> None:
    start = datetime.now(UTC)
    nothing = {name: None for name, column in load_schema().inputs.items() if column.nullable}
    rows = [row, {key: value for key, value in row.items() if key not in nothing}, row | nothing]
    answer = client.post("/v1/predict", json={"rows": rows}).json()
    stored = read_log(open_log("sqlite:///predictions.db"), start, answer["model_version"])
    assert [line["features"] for line in stored] == [nothing | one for one in rows]
    for line, prediction in zip(stored, answer["predictions"], strict=True):
        assert {"id": line["id"], **line["output"]} == prediction
    assert numbers(answer["predictions"][1]) == numbers(answer["predictions"][2])


@ANY
@given(data=st.data())
def test_offline_and_online_agree_on_any_row_the_contract_allows(client, data) -> None:
    schema = load_schema()
    rows = data.draw(st.lists(valid_rows(schema), min_size=1, max_size=5))
    answer = client.post("/v1/predict", json={"rows": rows})
    assert answer.status_code == 200, answer.text
    online = np.array([numbers(found) for found in answer.json()["predictions"]])

    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    *counts, _ = score("rows.jsonl", Path("scored.parquet"))
    assert counts == [len(rows), 0]
    batch = pd.read_parquet("scored.parquet").iloc[:, -online.shape[1] :].to_numpy()
    assert batch.astype(float) == pytest.approx(online, rel=1e-5, abs=1e-5)

    asked = pd.DataFrame(rows, columns=list(schema.inputs))
    typed, _ = check_table(pa.Table.from_pandas(asked, preserve_index=False), schema.inputs)
    table = with_derived(typed.to_pandas(), schema)
    trained = scores(load(files.MODEL), table, schema)
    assert online[:, : trained.shape[1]] == pytest.approx(trained, rel=1e-5, abs=1e-5)


@ANY
@given(data=st.data())
def test_any_row_the_contract_forbids_is_refused_online_and_offline(client, data) -> None:
    row = data.draw(invalid_rows(load_schema()))
    assert client.post("/v1/predict", json={"rows": [row]}).status_code == 422
    Path("rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with suppress(Failure):  # of a row that is not even JSON
        *counts, _ = score("rows.jsonl", Path("scored.parquet"))
        assert counts == [0, 1]


def test_a_refusal_names_the_column_and_echoes_nothing(client, row) -> None:
    changes = {
        name: "<script>" if not column.allow_unknown else 7
        for name, column in load_schema().inputs.items()
    }
    for name, value in (changes | {"<script>": 30}).items():
        answer = client.post("/v1/predict", json={"rows": [row | {name: value}]})
        assert answer.status_code == 422
        assert (name in answer.json()["detail"][0]["loc"]) == (name in changes)
        assert "<script>" not in answer.text


def test_documentation_comes_from_the_contract_and_needs_no_network(client, row) -> None:
    assert "//cdn" not in client.get("/docs").text
    shapes = client.get("/openapi.json").json()["components"]["schemas"]
    assert shapes["Rows"]["example"] == {"rows": [row]}
    found, inputs = shapes["Row"]["properties"], load_schema().inputs
    assert list(found) == list(inputs)
    for name, column in inputs.items():
        assert column.description in found[name]["description"]
