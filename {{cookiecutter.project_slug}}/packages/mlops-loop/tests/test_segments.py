"""Segments: a model for each category of a column, one bundle that routes rows to them."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from mlops_loop.base import compute, files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import Params, SegmentParams, TrainParams, load_params
from mlops_loop.batch.score import score
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.metrics.tasks import deciding_metric
from mlops_loop.monitoring import performance
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.monitoring_window import read_window
from mlops_loop.onboarding.infer.adapt import new_params
from mlops_loop.release.candidate import Champion, open_candidate
from mlops_loop.release.gates.segments import segments
from mlops_loop.release.promote import check_inputs
from mlops_loop.scoring.bundle import Bundle, Manifest, PromotionFacts, hashes, open_bundle
from mlops_loop.scoring.scorer import load_scorer
from mlops_loop.scoring.segmented_model import SegmentedModel
from mlops_loop.scoring.skops_model import columns, inputs, load, predict, save, scores
from mlops_loop.serving.app import create_app
from mlops_loop.training.export import write_model
from mlops_loop.training.fit import check_segments, describe_segments, fit

from .conftest import change, run_stages
from .made_up import CLASSES, made_up_contract, made_up_table
from .traffic import END, come_true, engine, log_rows, promised

TASKS = [*CLASSES]
PARAMS = TrainParams(model="gradient_boosting", gradient_boosting={"max_iter": 5})
BY_SORT = SegmentParams(column="sort", min_rows=100)


def rows_of(task: str) -> pd.DataFrame:
    """Return rows of which `c` are few, and some are of no category of the contract."""
    table = made_up_table(task, 900)
    rare = np.flatnonzero(table["sort"] == "c")[50:]
    table.loc[rare[::2], "sort"] = None
    table.loc[rare[1::2], "sort"] = "new"
    return table


def write(model: SegmentedModel, folder: Path, task: str, form: str) -> Bundle:
    """Return a bundle that holds nothing but a model."""
    params = Params.model_validate({"ingest": {"source": "x"}, "export": {"format": form}})
    schema = made_up_contract(task)
    made = Manifest(**write_model(folder, model, schema, params))
    whole = made.model_copy(update={"files": hashes(folder)})
    return Bundle(folder, whole, PromotionFacts(), schema, "")


@pytest.mark.parametrize("form", ["onnx", "skops"])
@pytest.mark.parametrize("task", TASKS)
def test_rows_are_routed_to_the_model_of_their_category_and_others_to_the_fallback(
    task, form, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.chdir(tmp_path)
    schema, table = made_up_contract(task), rows_of(task)
    model = fit(table, schema, PARAMS, BY_SORT)
    assert list(model.models_) == ["a", "b"]
    assert model.reasons_ == {"c": "50 rows"}
    expected = scores(fit(table, schema, PARAMS), table, schema)  # of all rows, and of each sort
    for sort in "ab":
        part = table[table["sort"] == sort]
        expected[table["sort"] == sort] = scores(fit(part, schema, PARAMS), part, schema)
    np.testing.assert_array_equal(scores(model, table, schema), expected)
    files.MODEL.parent.mkdir()
    save(model, files.MODEL)
    np.testing.assert_array_equal(scores(load(files.MODEL), table, schema), expected)
    (tmp_path / "bundle").mkdir()
    bundle = write(model, tmp_path / "bundle", task, form)
    assert list(bundle.manifest.segments.models) == ["a", "b"]
    scored = load_scorer(bundle).scores
    served = columns(table, schema)
    np.testing.assert_allclose(scored(served), expected, rtol=1e-4, atol=1e-6)
    as_lists = {name: values.tolist() for name, values in served.items()}  # as the server has them
    np.testing.assert_array_equal(scored(as_lists), scored(served))
    for place in (0, *np.flatnonzero(table["sort"].isin(["new"]))[:1]):
        one = {name: values[place : place + 1] for name, values in as_lists.items()}
        np.testing.assert_array_equal(scored(one)[0], scored(served)[place])
    if form == "onnx":  # scikit-learn refuses no rows
        assert scored({name: [] for name in as_lists}).shape == (0, expected.shape[1])


def test_the_model_is_the_same_by_bytes_for_any_number_of_workers(tmp_path, monkeypatch) -> None:
    task = "multiclass-classification"
    found = []
    for workers in ("1", "2"):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", workers)
        save(fit(rows_of(task), made_up_contract(task), PARAMS, BY_SORT), tmp_path / "model")
        found.append(files.sha256(tmp_path / "model"))
    assert found[0] == found[1]


def test_a_category_of_one_class_is_left_to_the_fallback_which_is_not_to_be_alone(
    monkeypatch,
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    schema, table = made_up_contract(TASKS[0]), made_up_table(TASKS[0], 900)
    table.loc[table["sort"] == "b", "target"] = "yes"
    model = fit(table, schema, PARAMS, BY_SORT)
    assert describe_segments(model) == [
        "2 models by sort, and one of all rows as fallback",
        "left to the fallback: b (1 of 2 classes)",
    ]
    assert describe_segments(fit(table, schema, PARAMS)) == []
    few = fit(table, schema, PARAMS, SegmentParams(column="sort", min_rows=500))
    with pytest.raises(Failure, match=r"'sort' can have a model of its own: a \(\d+ rows\), b"):
        describe_segments(few)


@pytest.mark.parametrize("column", ["nothing", "size", "target"])
def test_a_column_that_is_no_category_of_the_model_is_refused(column) -> None:
    given = SegmentParams(column=column)
    with pytest.raises(Failure, match=rf"segments\.column: '{column}' is no category .*: sort"):
        check_segments(given, made_up_contract(TASKS[0]))


def test_a_named_cluster_trains_the_segments(project, monkeypatch) -> None:
    """Its package is asked for the joblib backend; what it does there, its own tests show."""

    class Asked(Exception):
        pass

    class Cluster:
        def parallel(self) -> None:
            raise Asked

    name = next(iter(load_schema().categorical), None)
    if not name:
        pytest.skip("the contract has no category")
    change(files.PARAMS, segments={"column": name})
    monkeypatch.setattr("mlops_loop.training.train.cluster", Cluster)
    with pytest.raises(Asked):
        run_stages("train")
    assert compute.cluster() is None


@pytest.fixture(scope="module")
def segmented(finished, tmp_path_factory) -> Path:
    """The finished folder, with a model for each category of a column."""
    folder = tmp_path_factory.mktemp("segmented") / "project"
    shutil.copytree(finished, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder.as_posix()}/mlflow.db")
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "segmented")
        train = tables.read_table(files.TRAIN)
        counts = {name: train[name].value_counts() for name in load_schema().categorical}
        column = max(counts, key=lambda name: counts[name].iloc[1:2].sum(), default=None)
        if column is None:
            pytest.skip("the contract has no category")
        least = int(counts[column].iloc[1])  # two or more have models
        change(files.PARAMS, segments={"column": column, "min_rows": least})
        change(files.PARAMS, "evaluate", min_slice_rows=100)
        run_stages("train", "evaluate", "export")
    return folder


@pytest.fixture
def project_of_segments(segmented, monkeypatch) -> Bundle:
    monkeypatch.chdir(segmented)
    monkeypatch.setenv("BUNDLE", str(files.BUNDLE))
    monkeypatch.setenv("PREDICTION_LOG_URL", "sqlite:///predictions.db")
    monkeypatch.delenv("API_KEYS", raising=False)
    return open_bundle(files.BUNDLE)


def test_one_bundle_holds_and_describes_the_models(project_of_segments) -> None:
    bundle = project_of_segments
    made = bundle.manifest.segments
    assert len(made.models) >= 2
    assert set(made.models.values()) < set(bundle.manifest.files)
    check_inputs(bundle)
    reported = files.read_json(files.METRICS)["segments"]
    assert {name for name, one in reported.items() if one["model"] == "own"} == set(made.models)
    metric, _ = deciding_metric(bundle.schema)
    judged = [one for one in reported.values() if one[metric] is not None]
    assert judged
    assert all(one["baseline"] is not None for one in judged)
    assert "### By segment" in (bundle.folder / "card.md").read_text("utf-8")
    change(files.PARAMS, segments=None)
    with pytest.raises(Failure, match=r"was not made from this params\.yaml"):
        check_inputs(bundle)
    segment = bundle.folder / next(iter(made.models.values()))
    kept = segment.read_bytes()
    segment.write_bytes(kept[:-1])
    with pytest.raises(Refusal, match=r"segments/0\.onnx is missing or was changed"):
        open_bundle(files.BUNDLE)
    segment.write_bytes(kept)
    change(files.PARAMS, segments={"column": made.column})


def test_api_and_files_are_scored_by_the_same_models(project_of_segments) -> None:
    bundle = project_of_segments
    made, schema = bundle.manifest.segments, bundle.schema
    test = tables.read_table(files.TEST).head(200)
    model = load(files.MODEL)
    expected = pd.DataFrame(scores(model, test, schema))
    own = test[made.column].isin(list(made.models)).to_numpy()
    plain = predict(model.fallback_, inputs(test, schema), schema)
    assert (expected.to_numpy() != plain).any(axis=1)[own].mean() > 0.9
    with TestClient(create_app(), "http://127.0.0.1") as client:
        about = client.get("/v1/model").json()["segments"]
        assert about == {"column": made.column, "models": made.models}
        rows = tables.as_json(test, schema)
        answered = client.post("/v1/predict", json={"rows": rows}).json()["predictions"]
        alone = client.post("/v1/predict", json={"rows": rows[:1]}).json()["predictions"]
    assert {**alone[0], "id": ""} == {**answered[0], "id": ""}
    if schema.classes:
        given = pd.DataFrame([one["probabilities"] for one in answered])[schema.classes]
    else:
        given = pd.DataFrame([[one["value"]] for one in answered])
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-6)
    test[list(schema.inputs)].to_parquet("given.parquet")
    assert score("given.parquet", "scored.parquet")[:2] == (200, 0)
    scored = pd.read_parquet("scored.parquet").iloc[:, len(schema.inputs) :]
    numbers = scored.select_dtypes("number").iloc[:, : expected.shape[1]]
    np.testing.assert_allclose(
        np.sort(numbers, axis=1), np.sort(expected, axis=1), rtol=1e-4, atol=1e-6
    )


def test_each_segment_has_its_gates(project_of_segments) -> None:
    bundle = project_of_segments
    params = load_params()
    table = tables.read_table(files.TEST)
    first = open_candidate(bundle, None, table, params.evaluate)
    column = bundle.manifest.segments.column
    found = segments(first, params.gates)
    names = {result.gate.partition(": ")[2] for result in found}
    large = table[column].value_counts()
    assert names <= {f"{column}={name}" for name in large[large >= 100].index}
    assert {result.gate.partition(":")[0] for result in found} == {"baseline", "calibration"}
    # The same champion refuses nothing; one that knows the truth of a segment better does.
    name = sorted(names)[0].partition("=")[2]
    same = replace(first, champion=Champion(bundle, first.scores))
    kept = [one for one in segments(same, params.gates) if one.gate.startswith("champion")]
    assert all(one.passed and one.value == 0 for one in kept)
    rows = (table[column] == name).to_numpy()
    better = first.scores.copy()
    if bundle.schema.classes:
        right = np.eye(len(bundle.schema.classes))
        places = pd.Categorical(table[bundle.schema.target], bundle.schema.classes).codes
        better[rows] = 0.5 * better[rows] + 0.5 * right[places][rows]
    else:
        better[rows, 0] = first.truth[rows]
    worse = replace(first, champion=Champion(bundle, better))
    failed = [one.gate for one in segments(worse, params.gates) if one.passed is False]
    assert f"champion: {column}={name}" in failed
    assert sum(one.startswith("champion") for one in failed) == 1
    off = params.gates.model_copy(update={"baseline": None, "champion": None, "calibration": None})
    assert segments(worse, off) == []
    without = replace(bundle, manifest=bundle.manifest.model_copy(update={"segments": None}))
    assert segments(replace(first, bundle=without), params.gates) == []
    few = first.params.model_copy(update={"min_slice_rows": 10**6})
    (none,) = segments(replace(first, params=few), params.gates)
    assert none.passed is None


def test_the_monitor_measures_each_segment(project_of_segments) -> None:
    bundle, params = project_of_segments, load_params()
    table = tables.read_table(files.TEST)
    logged = log_rows(table.take(np.resize(np.arange(len(table)), 2000)))
    come_true(logged, promised(logged))
    schema = bundle.schema
    start = END - timedelta(days=7)
    window = read_window(engine(), start, END, bundle.version, schema, params.monitor.max_rows)
    column = bundle.manifest.segments.column
    plain = {name: one.model_copy(update={"slice": False}) for name, one in schema.columns.items()}
    alone = replace(bundle, schema=schema.model_copy(update={"columns": plain}))
    found = performance.check(Evaluation(window, alone, params))
    assert column in {one.column for one in found.slices}


def test_schema_infer_keeps_segments_that_fit_the_new_table_only(project) -> None:
    schema = load_schema()
    change(files.PARAMS, segments={"column": "no such column"})
    assert "no such column" not in new_params("new.csv", schema)
    if schema.categorical:
        change(files.PARAMS, segments={"column": schema.categorical[0]})
        assert f"column: {schema.categorical[0]}" in new_params("new.csv", schema)
