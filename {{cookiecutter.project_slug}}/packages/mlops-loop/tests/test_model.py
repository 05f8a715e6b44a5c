from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import skops.io
from threadpoolctl import threadpool_limits

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import load_params
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scored
from mlops_loop.scoring import skops_model as model
from mlops_loop.scoring.bundle import CARDS, MANIFEST, PROMOTION, open_bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.training import explain, export, train
from mlops_loop.training.fit import build, fit, target
from mlops_loop.training.to_onnx import to_onnx

from .conftest import change, run_stages


@pytest.mark.parametrize("trees", [True, False])
def test_the_bundle_scores_as_the_model_does_gaps_and_unseen_categories_too(project, trees) -> None:
    """And equal training gives equal bytes."""
    schema = load_schema()
    linear = "logistic_regression" if schema.classes else "ridge"
    change(files.PARAMS, "train", model="gradient_boosting" if trees else linear)
    train.main()
    export.main()
    test = tables.read_table(files.TEST)
    odd = dict.fromkeys(schema.categorical, "??") | dict.fromkeys(schema.numeric, np.nan)
    strange = test.assign(**odd)
    fitted, scorer = model.load(files.MODEL), open_scorer(open_bundle(files.BUNDLE))
    again = to_onnx(fit(tables.read_table(files.TRAIN), schema, load_params().train), schema)
    assert again == (files.BUNDLE / "model.onnx").read_bytes()
    for table in (test, strange):
        assert export.difference(fitted, scorer, table, schema) < 1e-5


def test_thresholds_are_float32_and_no_prediction_changes_by_it(project) -> None:
    table, schema, params = tables.read_table(files.TRAIN), load_schema(), load_params().train
    fitted = fit(table, schema, params)
    exact = build(schema, params).fit(model.inputs(table, schema), target(table, schema))
    for group in fitted[-1]._predictors:
        for tree in group:
            held = tree.nodes["num_threshold"]
            assert (held == held.astype("float32")).all()
    found = model.scores(fitted, table, schema)
    assert (found == model.scores(exact, table, schema)).all()


def test_an_unfaithful_export_is_refused(project) -> None:
    change(files.PARAMS, "gates", parity={"max_difference": 1e-20})
    before = files.sha256(files.BUNDLE / "bundle.json")
    with pytest.raises(Refusal, match="differs from the trained one"):
        export.main()
    assert files.sha256(files.BUNDLE / "bundle.json") == before


def test_what_cannot_be_trained_or_loaded_is_refused(project) -> None:
    skops.io.dump(open_scorer, "other.skops")
    with pytest.raises(Failure, match=r"review, then add to TRUSTED_TYPES in model\.py"):
        model.load(project / "other.skops")
    change(files.PARAMS, "train", "gradient_boosting", max_iters=20)
    other = "ridge" if load_schema().classes else "logistic_regression"
    for name, why in (
        ("gradient_boosting", r"see train in params\.yaml"),
        (other, r"train\.model: \w+ does not fit the task"),
    ):
        change(files.PARAMS, "train", model=name)
        with pytest.raises(Failure, match=why):
            train.main()


def test_equal_input_gives_equal_evidence_whatever_the_threads(project) -> None:
    before = files.sha256(files.BUNDLE / "bundle.json")  # it has the hash of every file and report
    with threadpool_limits(1):
        run_stages("evaluate", "export")
    assert files.sha256(files.BUNDLE / "bundle.json") == before


def test_a_feature_counts_by_what_shuffling_it_costs(project) -> None:
    schema, fitted = load_schema(), model.load(files.MODEL)
    table, point = tables.read_table(files.TEST), open_bundle(files.BUNDLE).operating_point
    truth, (name, *_) = tasks.of(schema).truth(table, schema), schema.features
    scored = Scored(truth, model.scores(fitted, table, schema), point, schema)
    _, ranked = explain.importance(fitted, table, scored)
    assert sorted(ranked["feature"]) == sorted(schema.features)
    assert ranked["importance"].is_monotonic_decreasing
    assert ranked["importance"][0] > 0
    same = table.assign(**{name: table[name].dropna().iloc[0]})  # shuffling changes nothing
    _, ranked = explain.importance(fitted, same, scored)
    assert ranked.set_index("feature").loc[name].tolist() == [0, 0]


def test_dependence_is_the_mean_prediction_at_a_value(project) -> None:
    schema, fitted, table = load_schema(), model.load(files.MODEL), tables.read_table(files.TEST)
    _, found = explain.dependence(fitted, table, list(schema.features), schema, rows=len(table))
    assert set(found["feature"]) <= set(list(schema.features)[: explain.SHOWN])
    for name in set(found["feature"]):
        line = found[found["feature"] == name].iloc[-1]
        scored = model.scores(fitted, table.assign(**{name: line["value"]}), schema)
        place = schema.classes.index(line["class"]) if schema.classes else 0
        assert line["prediction"] == pytest.approx(scored[:, place].mean(), rel=1e-5)
        if order := schema.features[name].categories:
            values = list(found[found["feature"] == name]["value"].unique())
            assert values == [value for value in order if value in values]


def test_a_changed_bundle_is_refused_and_only_its_card_may_be_replaced(project) -> None:
    promotion = {"version": "3", "files": {}}
    files.write_json(files.BUNDLE / PROMOTION, promotion)
    assert open_bundle(files.BUNDLE).version == "3"
    refused = partial(pytest.raises, Refusal)
    for path in sorted(files.BUNDLE.rglob("*.*")):
        if path.name in (PROMOTION, "model-settings.json"):  # Seldon's agent writes the latter anew
            continue
        honest = path.read_bytes()
        path.write_bytes(honest + b" ")
        with refused(match="was changed") if path.name != MANIFEST else nullcontext():
            open_bundle(files.BUNDLE)
        changed = promotion | {"files": {path.name: files.sha256(path)}}
        files.write_json(files.BUNDLE / PROMOTION, changed)
        with nullcontext() if path.name in CARDS else refused(match="does not replace"):
            open_bundle(files.BUNDLE)
        path.write_bytes(honest)
        files.write_json(files.BUNDLE / PROMOTION, promotion)
    (files.BUNDLE / "plots/importance.png").unlink()
    with pytest.raises(Refusal, match=r"importance\.png is missing"):
        open_bundle(files.BUNDLE)
    (files.BUNDLE / MANIFEST).unlink()
    with pytest.raises(Failure, match="there is no bundle") as missing:
        open_bundle(files.BUNDLE)
    assert not isinstance(missing.value, Refusal)
