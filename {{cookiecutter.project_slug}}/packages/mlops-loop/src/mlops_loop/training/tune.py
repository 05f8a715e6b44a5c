"""Search hyperparameters with Optuna; it reads the training window alone."""

import hashlib
import inspect
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base import files, project
from mlops_loop.base.compute import cluster
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import PARAMS, SCHEMA, TRAIN
from mlops_loop.base.params import AUTO, Arguments, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.base.work_tree import lineage
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.tracking.session import session
from mlops_loop.training.cross_validation import compare, folds, loss
from mlops_loop.training.fit import build

STUDIES = Path("tune.db")  # all that was tried, so that a search goes on where it stopped


def search_space(trial: optuna.Trial, name: str) -> Arguments:
    """Return the parameters that the project's `search_space` proposes for a trial."""
    return dict(project.required("search_space")(trial, name))


class Search:
    """What the trials of one search share."""

    def __init__(self) -> None:
        self.schema = load_schema()
        params = load_params().train
        self.table = tables.read_sample(TRAIN, params.max_rows, params.seed)
        model = compare(self.table, self.schema, params).chosen
        self.params = params.model_copy(update={"model": model})
        self.folds = folds(self.table, self.schema, params.seed)
        self.metric = tasks.of(self.schema).OBJECTIVE
        searched = search_space(optuna.create_study().ask(), model)
        if not searched:
            what = f"search_space in model.py has nothing to try for {model}"
            raise Failure(f"{what}: name another train.model in {PARAMS}")
        settings = self.params.settings.items()
        self.fixed = {key: value for key, value in settings if key not in searched}
        in_use = build(self.schema, self.params)[
            -1
        ].get_params()  # also what params.yaml leaves out
        self.current = self.params.settings | {key: in_use[key] for key in searched}

    def evaluate(self, settings: Arguments) -> float:
        """Return the loss of some parameters."""
        params = self.params.with_settings(settings)
        return loss(self.table, self.folds, self.schema, params)

    def loss(self, settings: Arguments, name: str, found: float | None = None) -> float:
        """Return the loss of some parameters, unless it was found already, and log it to MLflow."""
        with mlflow.start_run(run_name=name, nested=True):
            mlflow.log_params(settings)
            value = self.evaluate(settings) if found is None else found
            mlflow.log_metric(self.metric, value)
        return value

    def proposed(self, trial: optuna.Trial) -> Arguments:
        """Return the parameters that a trial proposes, in digits as one would write them."""
        proposed = search_space(trial, self.params.model).items()
        short = {key: float(f"{x:.3g}") if isinstance(x, float) else x for key, x in proposed}
        trial.set_user_attr("settings", self.fixed | short)
        return self.fixed | short

    def run(self, trial: optuna.Trial) -> float:
        return self.loss(self.proposed(trial), f"trial {trial.number}")

    def study(self) -> optuna.Study:
        """Return the study of this model, data and code: losses of others cannot be compared."""
        code = Path(inspect.getfile(project.required("model")))
        hashes = map(files.sha256, (TRAIN, SCHEMA, code))
        same = [self.fixed, self.params.seed, self.params.max_rows, *hashes]
        digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
        name = f"{self.schema.task} {self.params.model} {digest[:12]}"
        storage = f"sqlite:///{STUDIES}"
        try:
            return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
            reason = str(error).splitlines()[0]
            raise Failure(f"{STUDIES} cannot be used, delete it to begin anew: {reason}") from None


def complete(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))


def in_turn(search: Search, study: optuna.Study, trials: int, end: float) -> Iterator[None]:
    """Run trials one after the other."""
    for _ in range(trials):
        if time.monotonic() >= end:
            break
        # Seeded by what is complete: an interrupted search goes on as if nothing had happened.
        seed = search.params.seed + complete(study)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        study.optimize(search.run, n_trials=1)
        yield


def tune(trials: int, timeout: float | None = None) -> None:
    """Try so many parameters more, and write the best of all to params.yaml if they are better."""
    end = time.monotonic() + (math.inf if timeout is None else timeout)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = Search()
    study = search.study()
    model = search.params.model
    metric = search.metric
    with session(load_settings()), mlflow.start_run(run_name="tune"):
        facts = {"data_sha256": files.sha256(TRAIN), "study": study.study_name}
        mlflow.set_tags({**lineage(), **facts})
        before = search.loss(search.current, "in use")
        print(f"tune: {metric} {before:.5g} with the parameters in use")
        on = cluster()
        done = on.tune(search, study, trials, end) if on else in_turn(search, study, trials, end)
        for number, _ in enumerate(done, 1):
            print(f"tune: {number} of {trials}, best {metric} {study.best_value:.5g}")
    count = complete(study)
    if not count or study.best_value >= before:
        print(f"{PARAMS} is unchanged: {metric} {before:.5g} is the best of {count} trials")
        return
    found = study.best_trial.user_attrs["settings"]
    write_settings(model, found)
    for key, value in found.items():
        print(f"  train.{model}.{key}: {search.current[key]} -> {value}")
    print(f"  {metric}: {before:.5g} -> {study.best_value:.5g}")
    print(f"{PARAMS} has the best of {count} trials now. Next: uv run dvc repro")


def write_settings(name: str, settings: Arguments) -> None:
    """Write the model's parameters to params.yaml; all else in it stays as it is, comments too."""

    def change(document: dict[str, dict[str, Arguments | str]]) -> None:
        train = document.setdefault("train", {})
        if train.get("model") == AUTO:
            train["model"] = name
        section = train.setdefault(name, {})
        for item in settings.items():
            if isinstance(section, dict) and item not in section.items():
                section.update([item])  # what is the same keeps its spelling

    files.write_text(PARAMS, edited(PARAMS, change))
