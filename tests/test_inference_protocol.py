"""The Open Inference Protocol, with clients that we did not write, and beside another server."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LEAKS, TEMPLATE, Project, copy, execute, serving
from servers import free_port, running
from test_pipeline import held_out

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("inference-protocol")]

KEY = "secret"
ROWS = 1000
Answers = tuple[list[str], list[list[float]]]  # labels, and probabilities by the classes' names
MLSERVER = "mlserver==1.7.1", "uvloop<0.22"  # which it does not work with
# Each client reads where the server is, the model's name and rows, and prints what it was answered.
READ = """
import json, sys
address, name, key, rows = json.load(sys.stdin)
columns = {column: [row[column] for row in rows] for column in rows[0]}
"""
TRITON = """
import numpy as np
from tritonclient import http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

client = http.InferenceServerClient(address.removeprefix("http://"))
headers = {"X-API-Key": key}
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)
assert not client.is_model_ready("another") and not client.is_model_ready(name, "none")
assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
metadata = client.get_model_metadata(name, headers=headers)
assert metadata["name"] == name

def tensor(described, binary):
    kind, values = described["datatype"], columns[described["name"]]
    if kind == "BYTES":
        values = np.array([(value or "").encode() for value in values], dtype=object)
    else:
        values = np.array(values, dtype=triton_to_np_dtype(kind))  # None becomes NaN
    given = http.InferInput(described["name"], list(values.shape), kind)
    missing = kind == "FP64" and np.isnan(values).any()  # as JSON the client would write NaN
    return given.set_data_from_numpy(values, binary_data=bool(binary or missing))

answers, wanted = [], ["label", "probabilities", "prediction_id"]
for binary_in in (True, False):
    for binary_out in (True, False, None):
        inputs = [tensor(described, binary_in) for described in metadata["inputs"]]
        outputs = [http.InferRequestedOutput(output, binary_data=binary_out) for output in wanted]
        outputs = None if binary_out is None else outputs
        found = client.infer(name, inputs, outputs=outputs, request_id="7", headers=headers)
        assert found.get_response()["id"] == "7"
        assert len(set(found.as_numpy("prediction_id"))) == len(rows)
        classes = json.loads(found.get_output("probabilities")["parameters"]["classes"])
        labels = found.as_numpy("label")
        labels = [text.decode() if isinstance(text, bytes) else text for text in labels]
        answers.append([classes, labels, found.as_numpy("probabilities").tolist()])
try:
    client.infer(name, inputs[1:], headers=headers)
except InferenceServerException as error:
    refusal = [error.status(), error.message()]
print(json.dumps([answers, refusal]))
"""
KSERVE = """
import asyncio
import numpy as np
from kserve import InferInput, InferRequest, InferenceRESTClient, RESTConfig

def tensor(described, binary):
    kind, values = described["datatype"], columns[described["name"]]
    if kind == "BYTES":
        values = np.array([(value or "").encode() for value in values], dtype=object)
    else:
        values = np.array(values, dtype={"FP64": "f8", "INT64": "i8", "BOOL": "?"}[kind])
    given = InferInput(described["name"], list(values.shape), kind)
    missing = kind == "FP64" and bool(np.isnan(values).any())
    given.set_data_from_numpy(values, binary_data=binary or missing)
    return given

async def ask():
    client, headers = InferenceRESTClient(RESTConfig(protocol="v2")), {"X-API-Key": key}
    assert await client.is_server_live(address) and await client.is_server_ready(address)
    assert await client.is_model_ready(address, name)
    described = json.loads(METADATA)
    answers = []
    for binary in (True, False):
        inputs = [tensor(one, binary) for one in described["inputs"]]
        request = InferRequest(model_name=name, infer_inputs=inputs)
        found = await client.infer(address, request, model_name=name, headers=dict(headers))
        outputs = {output.name: output for output in found.outputs}
        answers.append(outputs["probabilities"].as_numpy().tolist())
    return answers

print(json.dumps(asyncio.run(ask())))
"""
CODECS = """
import pandas as pd, requests
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.types import InferenceResponse

table = pd.DataFrame(columns)
texts = [column for column in table if table[column].map(type).eq(str).any()]
table = table.astype(dict.fromkeys(texts, object))  # this MLServer does not know pandas' str
request = PandasCodec.encode_request(table, use_bytes=False)
request = request.model_dump(exclude_none=True, mode="json")

def ask(address, name):
    headers = {"X-API-Key": key}
    answer = requests.post(f"{address}/v2/models/{name}/infer", json=request, headers=headers)
    assert answer.ok, answer.text
    response = InferenceResponse.model_validate(answer.json())
    outputs = {output.name: output for output in response.outputs}
    return NumpyCodec.decode_output(outputs["probabilities"]).tolist(), outputs

ours, outputs = ask(address, name)
labels = StringCodec.decode_output(outputs["label"])
print(json.dumps([labels, ours, ask(MLSERVER, "pipeline")[0]]))
"""
# A custom runtime, as MLServer calls it: the derived features, then the pipeline.
RUNTIME = """
import skops.io
from features import derive
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.types import InferenceResponse

class Pipeline(MLModel):
    async def load(self):
        path = self.settings.parameters.uri
        self.pipeline = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
        return True

    async def predict(self, payload):
        table = PandasCodec.decode_request(payload)
        columns = {name: table[name].to_numpy() for name in table}
        columns["scheduled_departure"] = columns["scheduled_departure"].astype("datetime64[s]")
        table = table.assign(**derive(columns)).drop(columns="scheduled_departure")
        numbers = table.select_dtypes("number").columns
        table = table.astype({column: "float32" for column in numbers})
        table = table.fillna({column: "" for column in table.columns.difference(numbers)})
        scores = self.pipeline.predict_proba(table)
        outputs = [NumpyCodec.encode_output("probabilities", scores)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


def tools(*packages: str) -> list[str]:
    """Return the command for a Python with packages that no project has, of the same day."""
    day = re.search(r'exclude-newer = "(.*)"', (TEMPLATE / "pyproject.toml").read_text("utf-8"))
    assert day
    # MLServer cannot be installed with Python 3.13.
    command = ["uv", "run", "--quiet", "--no-project", "--python", ">=3.10,<3.13"]
    command += ["--exclude-newer", day[1]]
    return command + [part for package in packages for part in ("--with", package)]


def ask(packages: tuple[str, ...], script: str, *given: Any) -> Any:
    """Run a client's script and return what it printed as JSON."""
    done = execute(
        *(*tools(*packages), "python", "-W", "ignore", "-c", READ + script),
        cwd=Path.cwd(),
        input=json.dumps(given),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def project(pipeline: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy(pipeline, tmp_path_factory.mktemp("protocol"), promoted=True)


@pytest.fixture(scope="module")
def rows(project: Project) -> list[dict[str, Any]]:
    return held_out(project, ROWS)


@pytest.fixture(scope="module")
def address(project: Project) -> Iterator[str]:
    command = "uv", "run", project.slug, "serve"
    with serving(project, *command, API_KEYS=f"test:{KEY}") as address:
        yield address


@pytest.fixture(scope="module")
def answers(address: str, rows: list[dict[str, Any]]) -> Answers:
    """What /v1/predict answers."""
    headers = {"X-API-Key": KEY}
    found = httpx.post(f"{address}/v1/predict", json={"rows": rows}, headers=headers, timeout=60)
    predictions = found.raise_for_status().json()["predictions"]
    shares = [prediction["probabilities"] for prediction in predictions]
    labels = [prediction["label"] for prediction in predictions]
    return labels, [[share[name] for name in sorted(share)] for share in shares]


def test_tritons_client_is_answered_as_v1_answers(
    project: Project, address: str, rows: list[dict[str, Any]], answers: Answers
) -> None:
    found, (status, message) = ask(
        ("tritonclient[http]",), TRITON, address, project.slug, KEY, rows
    )
    assert found == [[["late", "on_time"], *answers]] * 6  # in JSON and in binary
    assert (status, message) == ("422", "rows, 0, scheduled_departure: is missing")


def test_kserves_client_is_answered_as_v1_answers(
    project: Project, address: str, rows: list[dict[str, Any]], answers: Answers
) -> None:
    headers = {"X-API-Key": KEY}
    metadata = httpx.get(f"{address}/v2/models/{project.slug}", headers=headers).text
    script = KSERVE.replace("METADATA", repr(metadata))
    found = ask(("kserve",), script, address, project.slug, KEY, rows)
    assert found == [answers[1]] * 2


def test_mlserver_gives_the_same_answers_to_the_same_request(
    project: Project,
    address: str,
    rows: list[dict[str, Any]],
    answers: Answers,
    tmp_path: Path,
) -> None:
    code = "import sklearn, skops; print(sklearn.__version__, skops.__version__)"
    sklearn, skops = project.uv("python", "-c", code).stdout.split()
    port, grpc, metrics = free_port(), free_port(), free_port()
    (tmp_path / "runtime.py").write_text(RUNTIME)
    shutil.copy(project.path / "src" / project.package / "features.py", tmp_path)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics}
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    uri = {"uri": str(project.path / "build/model.skops")}
    model = {"name": "pipeline", "implementation": "runtime.Pipeline", "parameters": uri}
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    command = tools(*MLSERVER, f"scikit-learn=={sklearn}", f"skops=={skops}")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(LEAKS)}
    other = f"http://127.0.0.1:{port}"
    with running(port, *command, "mlserver", "start", ".", cwd=tmp_path, env=clean):
        for _ in range(600):
            if httpx.get(f"{other}/v2/models/pipeline/ready").status_code == 200:
                break
            time.sleep(0.1)
        script = CODECS.replace("MLSERVER", repr(other))
        labels, ours, theirs = ask(
            (*MLSERVER, "requests"), script, address, project.slug, KEY, rows
        )
    assert [labels, ours] == list(answers)
    for one, another in zip(ours, theirs, strict=True):
        assert one == pytest.approx(another, abs=1e-6)
