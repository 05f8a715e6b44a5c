import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.release.promote import promote
from mlops_loop.release.reproduce import differences, reproduce
from mlops_loop.release.trace import facts, trace
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.serving.app import create_app

from .conftest import change, use_registry

SERVED = Path("build/champion")
# Gates that other tests are about, and that take time.
SLOW = dict.fromkeys(("server", "latency", "behaviour", "slices", "calibration"))


@pytest.fixture
def fast(project) -> Path:
    change(files.PARAMS, "gates", **SLOW)
    return project


def predict() -> str:
    """Return the id of a prediction of the bundle that is served."""
    example = open_bundle(Path(load_settings().bundle)).manifest.example
    with TestClient(create_app(), "http://127.0.0.1") as client:
        answer = client.post("/v1/predict", json={"rows": [example]})
    return str(answer.json()["predictions"][0]["id"])


def test_a_prediction_is_traced_to_everything_behind_it(fast, monkeypatch, capsys) -> None:
    with pytest.raises(Failure, match="the registry has no record of it"):
        facts(predict())  # the candidate, which was never promoted
    with pytest.raises(Failure, match="the registry has no version 1"):
        reproduce("1")
    monkeypatch.setenv("BUNDLE", str(SERVED))
    promote()
    with pytest.raises(Failure, match="outside of git"):
        reproduce("1")
    promotion = open_bundle(SERVED).promotion
    prediction = predict()
    found = facts(prediction)
    manifest = files.read_json(SERVED / "bundle.json")
    assert found["model version"].endswith(f" {promotion.version} (champion)")
    assert found["promoted"] == f"{promotion.promoted_at} by {promotion.promoted_by}"
    assert found["run"].split()[0] == promotion.run_id
    assert found["bundle.json, sha256"] == files.sha256(SERVED / "bundle.json")
    for path in (files.TRAIN, files.TEST):
        assert found[f"{path.name}, sha256"] == files.sha256(path)
    assert found["train.seed"] == str(manifest["params"]["train"]["seed"])
    known = {name for name, value in json.loads(found["features"]).items() if value is not None}
    assert known == set(manifest["example"])
    capsys.readouterr()
    trace(prediction)
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert {name: value.strip() for name, value in shown.items()} == found

    with pytest.raises(Failure, match="has no prediction 'nonsense'"):
        facts("nonsense")
    (fast / "elsewhere").mkdir()
    use_registry(monkeypatch, fast / "elsewhere")
    with pytest.raises(Failure, match=r"does not know version 1 .*MLFLOW_TRACKING_URI"):
        facts(prediction)


def test_an_emergency_does_without_the_import_of_mlflow(fast, monkeypatch) -> None:
    monkeypatch.setenv("BUNDLE", str(SERVED))
    promote()
    prediction = predict()
    shutil.rmtree(SERVED)  # so that rollback, and whatever finishes it, has to fetch a bundle
    code = f"""
import sys
from contextlib import suppress
from mlops_loop.base.errors import Failure
from mlops_loop.release.audit import show_audit
from mlops_loop.release.champion import roll_back
from mlops_loop.release.trace import trace
show_audit(20, False)
with suppress(Failure):
    roll_back(None, "")
trace({prediction!r})
print("modules", *sys.modules)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, umask=0o077)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "sqlalchemy" in loaded
    assert not {"mlflow", "pandas", "sklearn", "pyarrow", "onnxruntime"} & loaded
    assert open_bundle(SERVED).version == "1"
    # An image or a shared folder is read by other users than the one who rolled back.
    closed = [path for path in (SERVED, *SERVED.rglob("*")) if not path.stat().st_mode & 0o004]
    assert closed == []


def test_a_difference_is_named() -> None:
    old = {"task": "x", "files": {"model.onnx": "1", "card.md": "2"}, "metrics": {"mae": 0.5}}
    assert differences(old, json.loads(json.dumps(old))) == []
    new = {"task": "y", "files": {"model.onnx": "3", "card.md": "2", "more": "4"}}
    assert differences(old, new) == ["task", "files.model.onnx", "metrics.mae", "files.more"]
