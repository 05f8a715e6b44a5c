import json
import struct
from datetime import UTC, datetime
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_loop.base import files
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import load_schema
from mlops_loop.contract.values import MAX_ROWS
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.serving.open_inference.tensors import ACCEPTED, DTYPES, HEADER

from .contract import valid_rows
from .server import read_log

NAME = current_project().name
ANY = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
INFER = f"/v2/models/{NAME}/infer"


def tensor(name: str, kind: str, values: list) -> dict:
    return {"name": name, "datatype": kind, "shape": [len(values)], "data": values}


def tensors(rows: list[dict]) -> list[dict]:
    """Rows as input tensors in JSON, of the datatype that can hold a missing value too."""
    kinds = {
        name: "FP64" if column.type == "integer" and column.nullable else ACCEPTED[column.type][0]
        for name, column in load_schema().inputs.items()
    }
    return [tensor(name, kind, [row.get(name) for row in rows]) for name, kind in kinds.items()]


def packed(inputs: list[dict]) -> tuple[bytes, int]:
    """A body with binary tensors, and the length of its JSON; a missing BOOL has none."""
    described, parts = [], []
    for given_ in inputs:
        kind, values = given_["datatype"], given_["data"]
        if kind == "BOOL" and None in values:
            described.append(given_)
            continue
        if kind == "BYTES":
            texts = [(value or "").encode() for value in values]
            data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        else:
            numbers = np.array([np.nan if x is None else x for x in values])
            data = numbers.astype(DTYPES[kind]).tobytes()
        parts.append(data)
        rest = {key: value for key, value in given_.items() if key != "data"}
        described.append(rest | {"parameters": {"binary_data_size": len(data)}})
    header = json.dumps({"inputs": described}).encode()
    return header + b"".join(parts), len(header)


def output(answer: dict, name: str) -> np.ndarray:
    (found,) = [tensor for tensor in answer["outputs"] if tensor["name"] == name]
    return np.array(found["data"]).reshape(found["shape"])


def rows_of(answer: dict) -> list[dict]:
    """The outputs of a response as the predictions that /v1/predict answers, less their ids."""
    names = ("label", "probabilities") if load_schema().classes else ("value", "interval")
    found = zip(*(output(answer, name).tolist() for name in names), strict=True)
    rows = [dict(zip(names, values, strict=True)) for values in found]
    for one in answer["outputs"]:
        if one["name"] == "probabilities":
            classes = json.loads(one["parameters"]["classes"])
            for row in rows:
                row["probabilities"] = dict(zip(classes, row["probabilities"], strict=True))
    return rows


def predicted(client: TestClient, rows: list[dict]) -> list[dict]:
    answer = client.post("/v1/predict", json={"rows": rows})
    assert answer.status_code == 200, answer.text
    return [{k: v for k, v in found.items() if k != "id"} for found in answer.json()["predictions"]]


def infer(client: TestClient, inputs: list[dict], **more: Any) -> Any:
    return client.post(INFER, json={"inputs": inputs, **more})


def check(client: TestClient, inputs: list[dict], rows: list[dict]) -> None:
    """Tensors in JSON and in binary are answered as their rows are by /v1/predict."""
    body, length = packed(inputs)
    binary = client.post(INFER, content=body, headers={HEADER: str(length)})
    for answer in (infer(client, inputs), binary):
        assert answer.status_code == 200, answer.text
        assert rows_of(answer.json()) == predicted(client, rows)


@ANY
@given(data=st.data())
def test_any_row_is_answered_as_by_v1_in_json_and_in_binary(client, data) -> None:
    rows = data.draw(st.lists(valid_rows(load_schema()), min_size=1, max_size=5))
    check(client, tensors(rows), rows)


def test_every_prediction_is_logged_under_the_id_that_is_answered(client, row) -> None:
    start = datetime.now(UTC)
    answer = infer(client, tensors([row, row]), id="mine").json()
    assert (answer["model_name"], answer["id"]) == (NAME, "mine")
    stored = read_log(open_log("sqlite:///predictions.db"), start, answer["model_version"])
    assert [line["id"] for line in stored] == output(answer, "prediction_id").tolist()
    assert [line["features"] for line in stored] == [row, row]
    assert [line["output"] for line in stored] == rows_of(answer)


def test_every_datatype_of_a_column_is_understood(client, row) -> None:
    for name, column in load_schema().inputs.items():
        low, high = column.limits
        small = next((number for number in range(128) if low <= number <= high), None)
        for kind in ACCEPTED[column.type]:
            value = {"BYTES": row[name], "BOOL": True}.get(kind, small)
            if value is None:
                continue  # nothing that every number type can hold
            changed = row | {name: value}
            inputs = [one for one in tensors([changed]) if one["name"] != name]
            check(client, [*inputs, tensor(name, kind, [value])], [changed])


def test_a_column_may_be_one_of_a_matrix_and_missing_values_may_be_left_out(client, row) -> None:
    flat = [one | {"shape": [1, 1]} for one in tensors([row])]
    nested = [one | {"data": [one["data"]]} for one in flat]
    assert rows_of(infer(client, nested).json()) == rows_of(infer(client, flat).json())
    optional = [name for name, column in load_schema().inputs.items() if column.nullable]
    if fewer := [one for one in tensors([row]) if one["name"] not in optional]:
        check(client, fewer, [row | dict.fromkeys(optional)])


def unpacked(answer: Any) -> list[dict]:
    """The outputs of a response in binary, as those in JSON are."""
    length = int(answer.headers[HEADER])
    found, rest = json.loads(answer.content[:length])["outputs"], answer.content[length:]
    for one in found:
        size = one["parameters"]["binary_data_size"]
        data, rest = rest[:size], rest[size:]
        one["data"] = np.frombuffer(data, "<f8").tolist() if one["datatype"] == "FP64" else []
        while one["datatype"] == "BYTES" and data:
            end = 4 + struct.unpack("<I", data[:4])[0]
            one["data"].append(data[4:end].decode())
            data = data[end:]
    assert rest == b""
    return found


def test_only_the_outputs_that_were_asked_for_are_answered_as_bytes_if_wanted(client, row) -> None:
    rows = [row] * 3
    answer = infer(client, tensors(rows), outputs=[{"name": "prediction_id"}]).json()
    assert [found["name"] for found in answer["outputs"]] == ["prediction_id"]
    asked = [{"name": "prediction_id", "parameters": {"binary_data": True}}]
    (ids,) = unpacked(infer(client, tensors(rows), outputs=asked))
    assert len(set(ids["data"])) == 3
    answer = infer(client, tensors(rows), parameters={"binary_data_output": True})
    assert rows_of({"outputs": unpacked(answer)}) == predicted(client, rows)


def test_metadata_and_health_are_those_of_the_bundle(client) -> None:
    model, version = f"/v2/models/{NAME}", open_bundle(files.BUNDLE).version
    found = client.get(model).json()
    assert (found["name"], found["versions"]) == (NAME, [version])
    assert [one["name"] for one in found["inputs"]] == list(load_schema().inputs)
    one_version = f"{model}/versions/{version}"
    assert client.get(one_version).json() == found
    assert client.get("/v2").json()["name"] == client.get("/v1/model").json()["name"] == NAME
    for path in ("/v2/health/live", "/v2/health/ready", f"{model}/ready", f"{one_version}/ready"):
        assert client.get(path).status_code == 200
    for path in ("models/other", "models/other/ready", f"models/{NAME}/versions/none", "nothing"):
        answer = client.get(f"/v2/{path}")
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert client.post(f"{model}/versions/none/infer", json={}).status_code == 404


def test_what_is_not_of_the_protocol_is_refused_in_one_line_that_echoes_nothing(
    client, row
) -> None:
    bad, inputs = "<script>", tensors([row])
    first, others = inputs[0], inputs[1:]
    kind, (value,) = first["datatype"], first["data"]
    required = [one for one in inputs if not load_schema().inputs[one["name"]].nullable]
    changes = [
        {"name": bad},
        {"datatype": bad},
        {"datatype": "BOOL" if kind != "BOOL" else "BYTES"},
        *({"shape": shape} for shape in ([2], [-1], [1, 2], [], [2**70])),
        *({"data": data} for data in ([value, value], [[[value]]], [{bad: bad}], bad, None)),
        {"parameters": {"binary_data_size": 1}},
    ]
    wrong = [[], {bad: bad}, [*inputs, first]]
    wrong += [[one | {"shape": [0], "data": []} for one in inputs]]
    wrong += [[first | change, *others] for change in changes]
    for one in required:
        rest = [old for old in inputs if old is not one]
        wrong += [rest, [*rest, one | {"data": [None]}]]
    bodies = [{"inputs": one} for one in wrong]
    bodies += [{}, {"inputs": inputs, "outputs": [{"name": bad}]}, {"inputs": inputs, "id": 1}]
    cases = [(400, body) for body in (b"", b"{" * 10_000, b'{"inputs": [NaN]}', b"\xff\xfe{\0}\0")]
    cases += [(422, json.dumps(body).encode()) for body in bodies]
    cases.append((413, json.dumps({"inputs": tensors([row] * (MAX_ROWS + 1))}).encode()))
    for status, body in cases:
        answer = client.post(INFER, content=body)
        assert answer.status_code == status, (body[:500], answer.text)
        assert list(answer.json()) == ["error"], body
        assert bad not in answer.text
        assert "\n" not in answer.json()["error"]


def test_binary_tensors_that_do_not_fit_are_refused(client, row) -> None:
    body, length = packed(tensors([row]))
    less = body.replace(b'"binary_data_size": ', b'"binary_data_size":-', 1)
    lengths = str(length + 1), str(len(body) + 1), "0", "-1", "many", "9" * 5000, None
    cases = [*((body, header) for header in lengths), (body[:length], None)]
    cases += [(content, str(length)) for content in (body[:-1], body + b"x", less)]
    for content, header in cases:
        headers = {} if header is None else {HEADER: header}
        answer = client.post(INFER, content=content, headers=headers)
        assert answer.status_code in (400, 422), (content, header)
        assert list(answer.json()) == ["error"]


@settings(ANY, max_examples=200)
@given(data=st.data())
def test_a_damaged_body_is_never_an_error_of_the_server(client, row, data) -> None:
    body, length = packed(tensors([row]))
    if data.draw(st.booleans()):
        body = json.dumps({"inputs": tensors([row])}).encode()
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged) - 1))
        damaged[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    headers = data.draw(st.sampled_from([{}, {HEADER: str(length)}]))
    answer = client.post(INFER, content=bytes(damaged), headers=headers)
    assert answer.status_code in (200, 400, 413, 422)
    assert answer.status_code == 200 or list(answer.json()) == ["error"]
