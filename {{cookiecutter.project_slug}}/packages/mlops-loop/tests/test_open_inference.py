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
from mlops_loop.contract.schema import Column, load_schema
from mlops_loop.contract.values import MAX_ROWS
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.serving.app import create_app
from mlops_loop.serving.open_inference.messages import HEADER
from mlops_loop.serving.open_inference.tensors import ACCEPTED, DTYPES, to_contract

from .contract import valid_rows
from .server import read_log

NAME = current_project().name

ANY = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
INFER = f"/v2/models/{NAME}/infer"


def datatype(column: Column) -> str:
    """The one that can hold a missing value too."""
    return "FP64" if column.type == "integer" and column.nullable else ACCEPTED[column.type][0]


def tensor(name: str, kind: str, values: list) -> dict:
    return {"name": name, "datatype": kind, "shape": [len(values)], "data": values}


def tensors(rows: list[dict]) -> list[dict]:
    """Rows as input tensors in JSON."""
    columns = load_schema().inputs.items()
    return [
        tensor(name, datatype(column), [row.get(name) for row in rows]) for name, column in columns
    ]


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
            data = (
                np.array([np.nan if x is None else x for x in values])
                .astype(DTYPES[kind])
                .tobytes()
            )
        parts.append(data)
        rest = {key: value for key, value in given_.items() if key != "data"}
        described.append(rest | {"parameters": {"binary_data_size": len(data)}})
    header = json.dumps({"inputs": described}).encode()
    return header + b"".join(parts), len(header)


def nothing(given_: dict) -> dict:
    return given_ | {"data": [None]}


def output(answer: dict, name: str) -> np.ndarray:
    (found,) = [tensor for tensor in answer["outputs"] if tensor["name"] == name]
    return np.array(found["data"]).reshape(found["shape"])


def rows_of(answer: dict) -> list[dict]:
    """The outputs of a response as the predictions that /v1/predict answers, less their ids."""
    if load_schema().classes:
        (shares,) = [tensor for tensor in answer["outputs"] if tensor["name"] == "probabilities"]
        classes = json.loads(shares["parameters"]["classes"])
        pairs = zip(output(answer, "label"), output(answer, "probabilities"), strict=True)
        return [
            {"label": label, "probabilities": dict(zip(classes, map(float, row), strict=True))}
            for label, row in pairs
        ]
    pairs = zip(output(answer, "value"), output(answer, "interval"), strict=True)
    return [{"value": float(value), "interval": list(map(float, ends))} for value, ends in pairs]


def predicted(client: TestClient, rows: list[dict]) -> list[dict]:
    answer = client.post("/v1/predict", json={"rows": rows})
    assert answer.status_code == 200, answer.text
    return [{k: v for k, v in found.items() if k != "id"} for found in answer.json()["predictions"]]


def infer(client: TestClient, inputs: list[dict], **more: Any) -> Any:
    return client.post(INFER, json={"inputs": inputs, **more})


@ANY
@given(data=st.data())
def test_any_row_is_answered_as_by_v1_in_json_and_in_binary(client, data) -> None:
    rows = data.draw(st.lists(valid_rows(load_schema()), min_size=1, max_size=5))
    expected = predicted(client, rows)
    answer = infer(client, tensors(rows))
    assert answer.status_code == 200, answer.text
    assert rows_of(answer.json()) == expected
    body, length = packed(tensors(rows))
    answer = client.post(INFER, content=body, headers={HEADER: str(length)})
    assert answer.status_code == 200, answer.text
    assert rows_of(answer.json()) == expected


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
            (expected,) = predicted(client, [row | {name: value}])
            inputs = [
                tensor(name, kind, [value]) if old["name"] == name else old
                for old in tensors([row])
            ]
            assert rows_of(infer(client, inputs).json()) == [expected], (name, kind)
            body, length = packed(inputs)
            answer = client.post(INFER, content=body, headers={HEADER: str(length)})
            assert rows_of(answer.json()) == [expected], (name, kind)


def test_a_limit_that_float32_cannot_hold_is_still_within_the_contract() -> None:
    column = Column(type="number", minimum=0.1, maximum=23.7)
    nearest = np.array([0.1, 23.7], dtype="float32").tolist()
    assert nearest[1] > 23.7
    assert to_contract([*nearest, 1.5, np.nan, np.inf], "FP32", column) == [
        0.1,
        23.7,
        1.5,
        None,
        np.inf,
    ]
    assert to_contract(nearest, "FP64", column) == nearest


def test_a_column_may_be_one_of_a_matrix_and_missing_values_may_be_left_out(client, row) -> None:
    column = [one | {"shape": [1, 1], "data": [one["data"]]} for one in tensors([row])]
    flat = [one | {"shape": [1, 1]} for one in tensors([row])]
    assert rows_of(infer(client, column).json()) == rows_of(infer(client, flat).json())
    optional = [name for name, column in load_schema().inputs.items() if column.nullable]
    fewer = [one for one in tensors([row]) if one["name"] not in optional]
    expected = predicted(client, [row | dict.fromkeys(optional)])
    if fewer:
        assert rows_of(infer(client, fewer).json()) == expected


def test_only_the_outputs_that_were_asked_for_are_answered_as_bytes_if_wanted(client, row) -> None:
    answer = infer(client, tensors([row] * 3), outputs=[{"name": "prediction_id"}]).json()
    assert [found["name"] for found in answer["outputs"]] == ["prediction_id"]

    answer = infer(client, tensors([row] * 3), parameters={"binary_data_output": True})
    length = int(answer.headers[HEADER])
    found, rest = json.loads(answer.content[:length])["outputs"], answer.content[length:]
    for one in found:
        size = one["parameters"]["binary_data_size"]
        data, rest = rest[:size], rest[size:]
        if one["datatype"] == "FP64":
            one["data"] = np.frombuffer(data, "<f8").tolist()
        else:
            one["data"] = []
            while data:
                end = 4 + struct.unpack("<I", data[:4])[0]
                one["data"].append(data[4:end].decode())
                data = data[end:]
    assert rest == b""
    assert rows_of({"outputs": found}) == predicted(client, [row] * 3)
    assert len(set(output({"outputs": found}, "prediction_id"))) == 3


def test_metadata_and_health_are_those_of_the_bundle(client) -> None:
    found = client.get(f"/v2/models/{NAME}").json()
    version = open_bundle(files.BUNDLE).version
    assert (found["name"], found["versions"]) == (NAME, [version])
    assert [one["name"] for one in found["inputs"]] == list(load_schema().inputs)
    assert client.get(f"/v2/models/{NAME}/versions/{version}").json() == found
    assert client.get("/v2").json()["name"] == NAME
    model = f"models/{NAME}"
    for path in (
        "health/live",
        "health/ready",
        f"{model}/ready",
        f"{model}/versions/{version}/ready",
    ):
        assert client.get(f"/v2/{path}").status_code == 200
    for path in ("models/other", "models/other/ready", f"models/{NAME}/versions/none", "nothing"):
        answer = client.get(f"/v2/{path}")
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert client.post(f"/v2/models/{NAME}/versions/none/infer", json={}).status_code == 404


def test_keys_are_asked_for(project, row, monkeypatch) -> None:
    monkeypatch.setenv("API_KEYS", "a:first")
    with TestClient(create_app(), "http://127.0.0.1") as client:
        answer = infer(client, tensors([row]))
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert client.get(f"/v2/models/{NAME}").status_code == 401
        assert client.get("/v2/health/ready").status_code == 200
        answer = client.post(INFER, json={"inputs": tensors([row])}, headers={"X-API-Key": "first"})
        assert answer.status_code == 200


def test_what_is_not_of_the_protocol_is_refused_in_one_line_that_echoes_nothing(
    client, row
) -> None:
    bad, inputs = "<script>", tensors([row])
    first, others = inputs[0], inputs[1:]
    kind, (value,) = first["datatype"], first["data"]
    required = [one for one in inputs if not load_schema().inputs[one["name"]].nullable]
    cases = [
        (400, b""),
        (400, b"{" * 10_000),
        (400, b'{"inputs": [NaN]}'),
        (400, b"\xff\xfe{\0}\0"),
        (422, {}),
        (422, {"inputs": []}),
        (422, {"inputs": {bad: bad}}),
        (422, {"inputs": [first | {"name": bad}, *others]}),
        (422, {"inputs": [*inputs, first]}),
        (422, {"inputs": [first | {"datatype": bad}, *others]}),
        (422, {"inputs": [first | {"datatype": "BOOL" if kind != "BOOL" else "BYTES"}, *others]}),
        (422, {"inputs": [first | {"shape": [2]}, *others]}),
        (422, {"inputs": [first | {"shape": [-1]}, *others]}),
        (422, {"inputs": [first | {"shape": [1, 2]}, *others]}),
        (422, {"inputs": [first | {"shape": []}, *others]}),
        (422, {"inputs": [first | {"shape": [2**70]}, *others]}),
        (422, {"inputs": [first | {"data": [value, value]}, *others]}),
        (422, {"inputs": [first | {"data": [[[value]]]}, *others]}),
        (422, {"inputs": [first | {"data": [{bad: bad}]}, *others]}),
        (422, {"inputs": [first | {"data": bad}, *others]}),
        (422, {"inputs": [{key: first[key] for key in first if key != "data"}, *others]}),
        (422, {"inputs": [first | {"parameters": {"content_type": "base64"}}, *others]}),
        (422, {"inputs": [first | {"parameters": {"binary_data_size": 1}}, *others]}),
        (422, {"inputs": inputs, "outputs": [{"name": bad}]}),
        (422, {"inputs": inputs, "outputs": [{"name": "prediction_id"}] * 2}),
        (422, {"inputs": inputs, "id": "x" * 1000}),
        (422, {"inputs": [one | {"shape": [0], "data": []} for one in inputs]}),
        (413, {"inputs": tensors([row] * (MAX_ROWS + 1))}),
        *((422, {"inputs": [old for old in inputs if old is not one]}) for one in required),
        *(
            (422, {"inputs": [*(old for old in inputs if old is not one), nothing(one)]})
            for one in required
        ),
    ]  # fmt: skip
    for status, body in cases:
        answer = client.post(INFER, content=json.dumps(body) if isinstance(body, dict) else body)
        assert answer.status_code == status, (body, answer.text)
        assert list(answer.json()) == ["error"], body
        assert bad not in answer.text
        assert "\n" not in answer.json()["error"]


def test_binary_tensors_that_do_not_fit_are_refused(client, row) -> None:
    body, length = packed(tensors([row]))
    sizes = [
        one.get("parameters", {}).get("binary_data_size")
        for one in json.loads(body[:length])["inputs"]
    ]
    shorter = body.replace(f'"binary_data_size": {sizes[0]}'.encode(), b'"binary_data_size": 0', 1)
    cases = [
        (body, str(length + 1)),
        (body, str(len(body) + 1)),
        (body, "0"),
        (body, "-1"),
        (body, "many"),
        (body, "9" * 5000),
        (body[:-1], str(length)),
        (body + b"x", str(length)),
        (body, None),
        (body[:length], None),
        (shorter, str(length - len(body) + len(shorter))),
        (body.replace(b'"binary_data_size": ', b'"binary_data_size":-', 1), str(length)),
    ]
    for content, header in cases:
        headers = {} if header is None else {HEADER: header}
        answer = client.post(INFER, content=content, headers=headers)
        assert answer.status_code in (400, 422), (content, header)
        assert list(answer.json()) == ["error"]


@settings(ANY, max_examples=200)
@given(data=st.data())
def test_a_damaged_body_is_never_an_error_of_the_server(client, row, data) -> None:
    body, length = packed(tensors([row]))
    body = bytearray(
        body if data.draw(st.booleans()) else json.dumps({"inputs": tensors([row])}).encode()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body) - 1))
        body[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    headers = data.draw(st.sampled_from([{}, {HEADER: str(length)}]))
    answer = client.post(INFER, content=bytes(body), headers=headers)
    assert answer.status_code in (200, 400, 413, 422)
    assert answer.status_code == 200 or list(answer.json()) == ["error"]
