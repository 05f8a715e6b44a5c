import os
import pickle
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from fastapi.testclient import TestClient
from sklearn.preprocessing import FunctionTransformer

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.cli import operate as serving
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.data.derived import with_derived
from mlops_loop.release import promote
from mlops_loop.release.smoke_test import run as smoke_test
from mlops_loop.release.smoke_test import server as smoke_server
from mlops_loop.scoring import self_check
from mlops_loop.scoring import skops_model as model
from mlops_loop.scoring.bundle import MANIFEST, Manifest, open_bundle, read_document, write_manifest
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.serving.app import create_app
from mlops_loop.training import export

from .conftest import change

WRITTEN = Path("written")  # by code in a model file, if that is run


class Exploit:
    def __reduce__(self):
        return os.mkdir, (str(WRITTEN),)


def fit_with(step: FunctionTransformer) -> None:
    """Fit the project's pipeline again, with one step more."""
    table, schema, fitted = tables.read_table(files.TRAIN), load_schema(), model.load(files.MODEL)
    fitted.steps.insert(1, ("own step", step))
    target = table[schema.target].to_numpy(dtype=object if schema.classes else float)
    model.save(fitted.fit(model.inputs(table, schema), target), files.MODEL)


@pytest.fixture
def roots(project) -> Path:
    """A project whose pipeline has a step that ONNX cannot express."""
    fit_with(FunctionTransformer(np.cbrt))
    return project


def in_skops() -> None:
    change(files.PARAMS, "export", format="skops")
    export.main()


def swap(name: str, content: bytes) -> None:
    """Put another file in the place of the bundle's model, with all hashes right."""
    for path in files.BUNDLE.glob("model.*"):
        path.unlink()
    (files.BUNDLE / name).write_bytes(content)
    write_manifest(files.BUNDLE, read_document(files.BUNDLE / MANIFEST, Manifest))


def numbers(answer: dict) -> list[float]:
    """The scores in an answer: probabilities in the order of the classes, or the value."""
    shares = answer.get("probabilities")
    return [shares[name] for name in sorted(shares)] if shares else [answer["value"]]


def test_what_onnx_cannot_express_is_served_by_skops_with_the_same_answers(roots) -> None:
    with pytest.raises(
        Failure, match=r"cannot become ONNX; set `export\.format: skops` in params\.yaml"
    ):
        export.main()
    in_skops()
    listed = open_bundle(files.BUNDLE).manifest.files
    assert {"model.skops", "model.onnx"} & set(listed) == {"model.skops"}
    schema = load_schema()
    test = smoke_test.sample(tables.read_table(files.TEST), schema, 50)
    optional = [name for name, column in schema.inputs.items() if column.nullable]
    gaps = test.astype(object)
    gaps[optional] = None  # whole columns of them
    for table in (test, gaps):
        rows = tables.as_json(table, schema)
        with TestClient(create_app(), "http://127.0.0.1") as client:
            answers = client.post("/v1/predict", json={"rows": rows}).json()["predictions"]
        trained = model.scores(
            model.load(files.MODEL), with_derived(pd.DataFrame(rows), schema), schema
        )
        assert np.array_equal(np.array([numbers(answer) for answer in answers]), trained)


def test_a_model_in_skops_is_promoted_through_the_real_server(roots, monkeypatch) -> None:
    monkeypatch.setenv("BUNDLE", "build/champion")
    in_skops()
    off = ["baseline", "champion", "slices", "calibration", "fairness", "leakage", "labels"]
    off.append("behaviour")
    change(files.PARAMS, "gates", **dict.fromkeys(off))
    change(files.PARAMS, "gates", latency={"p95_milliseconds": 1e6})
    promoted = promote.promote()
    assert {gate.gate: gate.passed for gate in promoted.gates} == {
        **dict.fromkeys(off),
        **dict.fromkeys(("server", "latency", "parity", "size"), True),
    }
    served = open_bundle(Path("build/champion"))
    assert served.version == promoted.version
    assert (served.folder / "model.skops").is_file()


def test_the_environment_for_onnx_says_what_a_model_in_skops_needs(project) -> None:
    in_skops()
    command = [str(smoke_server.serving_command()), "serve"]
    done = subprocess.run(command, env=smoke_server.outside(), capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "needs the group serve-skops" in done.stderr


NO_MODELS = ["model.pkl", "model.joblib", "model.skops", "model.onnx", "model.txt", "graph"]


@pytest.mark.parametrize("name", NO_MODELS)
def test_a_pickle_is_refused_and_never_opened(project, name) -> None:
    pickle.loads(content := pickle.dumps(Exploit()))
    WRITTEN.rmdir()  # so it works, wherever it is opened
    swap(name, content)
    bundle = open_bundle(files.BUNDLE)  # as its hashes are right
    for serve in (serving.serve, partial(open_scorer, bundle)):
        with pytest.raises(
            Failure, match=r"never a pickle|missing or corrupt|cannot be loaded"
        ) as refused:
            serve()
        assert "\n" not in str(refused.value)
    assert not WRITTEN.exists()


def test_a_skops_file_with_types_that_nobody_reviewed_is_refused(project) -> None:
    fitted = model.load(files.MODEL)
    fitted.steps.insert(0, ("exploit", FunctionTransformer(partial(os.mkdir, str(WRITTEN)))))
    swap("model.skops", skops.io.dumps(fitted))
    with pytest.raises(Failure, match=r"mkdir: review, then add to TRUSTED_TYPES in model\.py"):
        serving.serve()
    assert not WRITTEN.exists()


def test_a_bundle_is_refused_whose_check_rows_are_scored_otherwise(project) -> None:
    """As by another library, or by a function in a skops file, which has its name, not its code."""
    rows = files.read_json(files.BUNDLE / self_check.FILE)
    rows["scores"][3][0] *= 1.001
    files.write_json(files.BUNDLE / self_check.FILE, rows)
    write_manifest(files.BUNDLE, read_document(files.BUNDLE / MANIFEST, Manifest))
    with pytest.raises(Refusal, match=r"the model scores .* for check row 3, not "):
        create_app()
