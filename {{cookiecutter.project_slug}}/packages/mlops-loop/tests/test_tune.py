import shutil

import mlflow
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import load_params
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.training import cross_validation, tune
from mlops_loop.training.fit import build

from .conftest import ROOT, change, edit
from .made_up import CLASSES, COLUMNS, made_up_table, raw_contract

STORAGE = f"sqlite:///{tune.STUDIES}"


def contract(task: str) -> dict:
    time = {"type": "timestamp", "role": "timestamp"}
    return raw_contract(task, {"time": time, **COLUMNS}, timestamp="time")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> str:
    """MLflow's database, made once: it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow').as_posix()}/mlflow.db"


@pytest.fixture
def folder(tmp_path, tracked, monkeypatch):
    """A project that has a training window, but no validation window and no test window."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked)
    monkeypatch.chdir(tmp_path)
    files.SCHEMA.write_text(yaml.safe_dump(contract("regression")), encoding="utf-8")
    begin()


def begin() -> None:
    """Forget what was tried; the parameters in use are poor ones, outside of the space."""
    tune.STUDIES.unlink(missing_ok=True)
    tables.write_table(files.TRAIN, made_up_table("regression", 200))
    shutil.copy(ROOT / files.PARAMS, files.PARAMS)
    edit(files.PARAMS, f"model: {load_params().train.model}", "model: ridge")
    edit(files.PARAMS, "alpha: 1.0", "alpha: 1.0e+6 # poor")


def history() -> list[tuple[float, dict]]:
    """Every trial that is complete, in order."""
    (name,) = optuna.get_all_study_names(STORAGE)
    study = optuna.load_study(study_name=name, storage=STORAGE)
    trials = study.get_trials(states=[TrialState.COMPLETE])
    return [(trial.value, trial.user_attrs["settings"]) for trial in trials]


def test_the_best_is_written_and_each_trial_is_a_run_within_a_run(folder, capsys) -> None:
    before = files.PARAMS.read_text(encoding="utf-8").splitlines()
    tune.tune(4)
    after = files.PARAMS.read_text(encoding="utf-8").splitlines()
    loss, best = min(history(), key=lambda pair: pair[0])
    assert load_params().train.ridge == best
    assert len(before) == len(after)
    ((old, new),) = [pair for pair in zip(before, after, strict=True) if len(set(pair)) > 1]
    assert old.endswith("# poor")
    assert new.endswith("# poor")
    said = capsys.readouterr().out
    assert f"{loss:.5g}" in said
    assert "uv run dvc repro" in said

    runs = mlflow.search_runs(search_all_experiments=True, max_results=6)
    runs = runs.set_index("tags.mlflow.runName")
    trials = runs.loc[["in use", *(f"trial {number}" for number in range(4))]]
    assert set(trials["tags.mlflow.parentRunId"]) == {runs.loc["tune", "run_id"]}
    assert trials["metrics.mae"].tolist()[1:] == [value for value, _ in history()]
    assert float(runs.loc["trial 0", "params.alpha"]) == history()[0][1]["alpha"]

    written = files.PARAMS.read_bytes()
    tune.tune(1, timeout=0)  # no trial may begin
    assert len(history()) == 4
    assert files.PARAMS.read_bytes() == written
    assert "unchanged" in capsys.readouterr().out


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(folder, monkeypatch) -> None:
    def stop_at_a_trial(settings: dict) -> None:
        if settings["alpha"] != 1e6:
            raise KeyboardInterrupt

    monkeypatch.setattr(tune, "write_settings", lambda *_: None)  # those in use stay as they are
    tune.tune(13)  # the first ten are random, the others learn from them
    whole = history()
    begin()
    tune.tune(2)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "log_params", stop_at_a_trial)
        with pytest.raises(KeyboardInterrupt):
            tune.tune(2)
    assert len(history()) == 2
    tune.tune(11)
    assert history() == whole
    assert len({str(settings) for _, settings in whole}) == 13


def test_what_is_worse_is_not_written_and_other_data_begins_anew(
    folder, monkeypatch, capsys
) -> None:
    change(files.PARAMS, "train", "ridge", alpha=0.001, fit_intercept=True)
    before = files.PARAMS.read_bytes()
    monkeypatch.setattr(
        tune, "search_space", lambda trial, _: {"alpha": trial.suggest_float("alpha", 1e4, 1e5)}
    )
    tune.tune(2)
    assert files.PARAMS.read_bytes() == before
    assert "params.yaml is unchanged" in capsys.readouterr().out
    assert all(settings["fit_intercept"] for _, settings in history())
    tables.write_table(files.TRAIN, made_up_table("regression", 100))
    tune.tune(1)
    assert len(optuna.get_all_study_names(STORAGE)) == 2


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("timestamp", ["time", None])
def test_folds_are_judged_by_later_rows_or_by_random_ones(task, timestamp) -> None:
    schema, rows = Schema.model_validate(contract(task)), made_up_table(task, 200)
    schema = schema.model_copy(update={"timestamp": timestamp})
    parts = cross_validation.folds(rows, schema, seed=0)
    assert len(parts) == cross_validation.FOLDS
    times = rows["time"].to_numpy()
    for train, held in parts:
        assert not set(train) & set(held)
        assert (times[train].max() < times[held].min()) == bool(timestamp)
        assert set(rows["target"].iloc[train]) >= set(schema.classes)


@pytest.mark.parametrize("task", ["binary-classification", "regression"])
def test_the_space_is_of_parameters_that_the_model_has(folder, task) -> None:
    schema, study = Schema.model_validate(contract(task)), optuna.create_study()
    for name in ("gradient_boosting", "logistic_regression" if schema.classes else "ridge"):
        settings = tune.search_space(study.ask(), name)
        params = load_params().train.model_copy(update={"model": name}).with_settings(settings)
        assert build(schema, params)[-1].get_params().items() >= settings.items()


def test_a_classification_is_tuned_too(folder) -> None:
    files.SCHEMA.write_text(yaml.safe_dump(contract("binary-classification")), encoding="utf-8")
    rows = made_up_table("binary-classification", 200)
    tables.write_table(files.TRAIN, rows)
    change(files.PARAMS, "train", model="logistic_regression", logistic_regression={"C": 0.001})
    tune.tune(2)
    schema, params = load_schema(), load_params().train
    parts = cross_validation.folds(rows, schema, params.seed)
    assert params.logistic_regression["C"] > 0.001
    assert cross_validation.loss(rows, parts, schema, params) == min(loss for loss, _ in history())


def test_floats_and_nulls_are_written_as_they_are_read(folder) -> None:
    written = {"learning_rate": 1e-05, "max_depth": None, "max_iter": 7}
    tune.write_settings("gradient_boosting", written)
    assert load_params().train.gradient_boosting.items() >= written.items()
    assert "max_depth: null" in files.PARAMS.read_text(encoding="utf-8")


def test_mistakes_are_one_line(folder) -> None:
    tune.STUDIES.write_bytes(b"no database" * 100)
    with pytest.raises(Failure, match=r"tune\.db cannot be used, delete it"):
        tune.tune(1)
    tables.write_table(files.TRAIN, made_up_table("regression", 3))
    with pytest.raises(Failure, match="too few rows"):
        tune.tune(1)
    files.TRAIN.unlink()
    with pytest.raises(Failure, match=r"train\.parquet is missing"):
        tune.tune(1)
