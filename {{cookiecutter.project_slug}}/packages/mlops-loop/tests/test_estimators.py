"""What serves each estimator: trained, exported and compared; the docs have the table."""

import re
from importlib import import_module
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.pipeline import Pipeline, make_pipeline

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import sha256
from mlops_loop.base.params import TrainParams
from mlops_loop.base.project import required
from mlops_loop.scoring.skops_model import columns, load, save, scores
from mlops_loop.training import fit
from mlops_loop.training.to_onnx import to_onnx

from .conftest import ROOT
from .made_up import CLASSES, made_up_contract, made_up_table

DOCS = (ROOT / "docs/extend.md").read_text("utf-8")
LIMIT = 1e-5  # gates.parity
MODEL = required("model").__globals__  # the project's model.py
LINEAR, TREES, FOREST = "logistic_regression", "gradient_boosting", "random_forest"
# Module, classifier and regressor, and the estimator of model.py whose preprocessing it needs.
ENSEMBLE = "sklearn.ensemble"
ESTIMATORS = {
    "gradient boosting": (ENSEMBLE, "HistGradientBoosting{kind}", TREES),
    "logistic regression, ridge": ("sklearn.linear_model", "LogisticRegression Ridge", LINEAR),
    "LightGBM": ("lightgbm", "LGBM{kind}", TREES),
    "XGBoost": ("xgboost", "XGB{kind}", TREES),
    "CatBoost": ("catboost", "CatBoost{kind}", TREES),
    "random forest": (ENSEMBLE, "RandomForest{kind}", FOREST),
    "extra trees": (ENSEMBLE, "ExtraTrees{kind}", FOREST),
    "support vectors": ("sklearn.svm", "SVC SVR", LINEAR),
    "k-neighbours": ("sklearn.neighbors", "KNeighbors{kind}", LINEAR),
    "neural network": ("sklearn.neural_network", "MLP{kind}", LINEAR),
    "stacking": (ENSEMBLE, "Stacking{kind}", FOREST),
    "calibrated": ("sklearn.calibration", "CalibratedClassifierCV", LINEAR),
    "kernel approximation": ("sklearn.kernel_approximation", "Nystroem Nystroem", LINEAR),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "LightGBM": MODEL["LIGHTGBM"],
    "XGBoost": MODEL["SIZES"],
    "CatBoost": MODEL["CATBOOST"],
    "neural network": {"max_iter": 2000},
}


def estimator(name: str, task: str) -> Any:
    """Return an unfitted estimator; None if a task has none of that name."""
    module, classes, _ = ESTIMATORS[name]
    kind = "Regressor" if task == "regression" else "Classifier"
    named = classes.format(kind=kind).split()
    if "{" not in classes:
        named = named[task == "regression" :]
    if not named:
        return None
    made = getattr(import_module(module), named[0])
    if name == "stacking":
        parts = [("linear", estimator("logistic regression, ridge", task))]
        return made([*parts, ("forest", estimator("random forest", task))])
    if name == "calibrated":
        return made(estimator("support vectors", task), cv=3)
    if name == "kernel approximation":
        return make_pipeline(
            made(n_components=20, random_state=0), estimator("logistic regression, ridge", task)
        )
    settings = SETTINGS.get(name, {})
    accepts = made().get_params()
    seeded = {"random_state": 0} if "random_state" in accepts or name == "CatBoost" else {}
    return made(**settings, **seeded)


def fitted(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> Pipeline | None:
    """Return an estimator trained as the loop trains, behind the project's preprocessing."""
    schema = made_up_contract(task)
    inner = estimator(name, task)
    if inner is None:
        return None
    if name == "support vectors" and schema.classes:
        from sklearn.calibration import CalibratedClassifierCV

        inner = CalibratedClassifierCV(inner, cv=3, ensemble=False)
    pipeline = make_pipeline(MODEL["preprocessing"](schema, ESTIMATORS[name][2]), inner)
    monkeypatch.setattr(fit, "build", lambda schema, params: pipeline)
    return fit.fit(made_up_table(task, 400), schema, TrainParams())


def served_by(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what serves an estimator: ONNX, or skops where the graph is missing or differs."""
    model = fitted(name, task, monkeypatch)
    if model is None:
        return "-"
    schema = made_up_contract(task)
    try:
        session = onnxruntime.InferenceSession(to_onnx(model, schema))
    except Failure as failure:
        if "set `export.format: skops`" not in str(failure) or "\n" in str(failure):
            raise
        return "skops"
    rows = made_up_table(task, 1000)
    for given in (rows, rows.assign(size=np.nan, sort="??")):
        values = columns(given, schema).values()
        feed = {
            found.name: np.asarray(column).reshape(-1, 1)
            for found, column in zip(session.get_inputs(), values, strict=True)
        }
        exported = session.run([session.get_outputs()[-1].name], feed)[0]
        trained = scores(model, given, schema)
        if not np.abs(exported - trained).max() <= LIMIT * np.abs(trained).max():
            return "skops"
    return "ONNX"


def listed() -> dict[str, list[str]]:
    """Return what the docs say of each estimator: of classifications, and of a regression."""
    rows = re.findall(r"^\| ([^|]+) \| (ONNX|skops|-) \| (ONNX|skops|-) \|$", DOCS, re.M)
    return {name: list(served) for name, *served in rows}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_docs_say_what_serves_an_estimator(name, monkeypatch) -> None:
    library = ESTIMATORS[name][0].partition(".")[0]
    pytest.importorskip(library, reason=f"the group {library} is not installed")
    binary, multiclass, regression = (served_by(name, task, monkeypatch) for task in CLASSES)
    assert [binary, regression] == [multiclass, regression] == listed()[name]
    assert list(listed()) == list(ESTIMATORS)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_an_estimator_of_another_library_is_trained_stored_and_the_same_again(
    library, tmp_path
) -> None:
    pytest.importorskip(library, reason=f"the group {library} is not installed")
    for task in CLASSES:
        schema, rows = made_up_contract(task), made_up_table(task, 400)
        params = TrainParams(model=library)
        for file in ("a", "b"):
            fitted = fit.fit(rows, schema, params)
            save(fitted, tmp_path / f"{file}.skops")
            (tmp_path / f"{file}.onnx").write_bytes(to_onnx(fitted, schema))
        for kind in ("skops", "onnx"):
            assert sha256(tmp_path / f"a.{kind}") == sha256(tmp_path / f"b.{kind}")
        kept = scores(load(tmp_path / "a.skops"), rows, schema)
        assert (kept == scores(fitted, rows, schema)).all()


def test_a_library_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(Failure, match="no_such_library is not installed: uv sync --group"):
        MODEL["optional"]("no_such_library", "Any")
