"""The API of the served model, as a client sees it."""

import numpy as np
import pytest
from fastapi.testclient import TestClient

from mlops_loop.testing import Sample


def test_it_answers_as_the_pipeline_does(sample: Sample, client: TestClient) -> None:
    rows = sample.test.head(20)
    answer = client.post("/v1/predict", json={"rows": sample.requests(rows)})
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    if classes := sample.schema.classes:
        online = [[one["probabilities"][name] for name in classes] for one in found]
    else:
        online = [[one["value"]] for one in found]
    assert np.array(online) == pytest.approx(sample.scores(rows), rel=1e-4, abs=1e-4)


def test_a_prediction_is_a_class_with_probabilities_or_a_value_with_an_interval(
    sample: Sample, client: TestClient
) -> None:
    rows = sample.requests(sample.test.head(1))
    (found,) = client.post("/v1/predict", json={"rows": rows}).json()["predictions"]
    if classes := sample.schema.classes:
        assert found["label"] in classes
        assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    else:
        low, high = found["interval"]
        assert low <= found["value"] <= high


def test_what_may_be_missing_may_be_left_out(sample: Sample, client: TestClient) -> None:
    (row,) = sample.requests(sample.test.head(1))
    nullable = [name for name in row if sample.schema.columns[name].nullable]
    less = {name: value for name, value in row.items() if name not in nullable}
    assert client.post("/v1/predict", json={"rows": [less]}).status_code == 200


def test_a_value_of_the_wrong_type_is_refused_and_named(sample: Sample, client: TestClient) -> None:
    (row,) = sample.requests(sample.test.head(1))
    for name in row:
        answer = client.post("/v1/predict", json={"rows": [row | {name: ["no", "value"]}]})
        assert answer.status_code == 422
        assert name in answer.json()["detail"][0]["loc"]


def test_the_documentation_shows_an_example_that_works(client: TestClient) -> None:
    shapes = client.get("/openapi.json").json()["components"]["schemas"]
    answer = client.post("/v1/predict", json=shapes["Rows"]["example"])
    assert answer.status_code == 200, answer.text
