"""Search hyperparameters with Optuna; it reads the training window alone."""

import hashlib
import inspect
import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import pandas as pd
from optuna.trial import TrialState, create_trial
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base import files, project
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import PARAMS, SCHEMA, TRAIN
from mlops_loop.base.params import AUTO, Arguments, TrainParams, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training.auto import compare
from mlops_loop.training.cross_validation import Fold, folds, loss
from mlops_loop.training.fit import build

STUDIES = Path("tune.db")  # all that was tried, so that a search goes on where it stopped

Result = tuple[float, Arguments]  # a loss, and what gave it


def model_file() -> Path:
    """Return the file that defines the project's model."""
    return Path(inspect.getfile(project.required("model")))


def search_space(trial: optuna.Trial, name: str) -> Arguments:
    """Return the parameters that the project's `search_space` proposes for a trial."""
    return dict(project.required("search_space")(trial, name))


def open_study(schema: Schema, params: TrainParams, fixed: Arguments) -> optuna.Study:
    """Return the study of this model, data and code: losses of others cannot be compared."""
    same = [
        fixed,
        params.seed,
        params.max_rows,
        *map(files.sha256, (TRAIN, SCHEMA, model_file())),
    ]
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
    name = f"{schema.task} {params.model} {digest[:12]}"
    try:
        return optuna.create_study(
            study_name=name, storage=f"sqlite:///{STUDIES}", load_if_exists=True
        )
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        reason = str(error).splitlines()[0]
        raise Failure(f"{STUDIES} cannot be used, delete it to begin anew: {reason}") from None


def tried(study: optuna.Study) -> list[Result]:
    """Return losses and parameters of the trials that came to an end, the best first."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    pairs = [(trial.value or 0.0, trial.user_attrs["settings"]) for trial in complete]
    return sorted(pairs, key=lambda pair: pair[0])


def suggest(
    study: optuna.Study, params: TrainParams, fixed: Arguments
) -> tuple[optuna.Trial, Arguments]:
    """Begin a trial; return it with the parameters to try, rounded as one would write them."""
    # Seeded by what has ended: an interrupted search goes on as if nothing had happened.
    ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=params.seed + ended, constant_liar=False)
    trial = study.ask()
    found = search_space(trial, params.model).items()
    settings = fixed | {key: float(f"{x:.3g}") if isinstance(x, float) else x for key, x in found}
    trial.set_user_attr("settings", settings)
    return trial, settings


@dataclass(frozen=True)
class Search:
    """What the trials of one search share."""

    schema: Schema
    params: TrainParams
    table: pd.DataFrame
    folds: list[Fold]
    probe: optuna.Trial  # that was asked for the space
    searched: Arguments  # the parameters in the space
    current: Arguments  # the parameters in use, also those that params.yaml leaves out

    @property
    def fixed(self) -> Arguments:
        """The parameters of params.yaml that are not searched."""
        given = self.params.settings
        return {key: value for key, value in given.items() if key not in self.searched}

    @property
    def objective(self) -> str:
        return tasks.of(self.schema).OBJECTIVE

    def measure(self, settings: Arguments, name: str) -> float:
        """Return the loss of some parameters, and log it to MLflow."""
        with mlflow.start_run(run_name=name, nested=True):
            mlflow.log_params(settings)
            params = self.params.with_settings(settings)
            value = loss(self.table, self.folds, self.schema, params)
            mlflow.log_metric(self.objective, value)
        return value


def open_search() -> Search:
    schema = load_schema()
    params = load_params().train
    table = tables.read_sample(TRAIN, params.max_rows, params.seed)
    params = compare(table, schema, params).params(params)
    probe = optuna.create_study().ask()
    searched = search_space(probe, params.model)
    if not searched:
        what = f"search_space in model.py has nothing to try for {params.model}"
        raise Failure(f"{what}: name another train.model in {PARAMS}")
    in_use = build(schema, params)[-1].get_params()
    current = params.settings | {key: in_use[key] for key in searched}
    parts = folds(table, schema, params.seed)
    return Search(schema, params, table, parts, probe, searched, current)


def tune(trials: int, timeout: float | None = None) -> None:
    """Try so many parameters more, and write the best of all to params.yaml if they are better."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = open_search()
    params = search.params
    study = open_study(search.schema, params, search.fixed)
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        session(load_settings()),
        mlflow.start_run(run_name="tune"),
        Progress(*columns) as progress,
    ):
        mlflow.set_tags(
            {**runs.lineage(), "data_sha256": files.sha256(TRAIN), "study": study.study_name}
        )
        bar = progress.add_task("parameters in use", total=trials)
        before = best = measure_current(search, study)
        for _ in range(trials):
            if time.monotonic() >= end:
                break
            trial, settings = suggest(study, params, search.fixed)
            value = search.measure(settings, f"trial {trial.number}")
            study.tell(trial, value)
            best = min(best, value)
            told = f"best {search.objective} {best:.5g}"
            progress.update(bar, advance=1, description=told)
    report(search.objective, params.model, (before, search.current), tried(study))


def measure_current(search: Search, study: optuna.Study) -> float:
    """Return the loss of the parameters in use; the study learns from it, unless it knows it."""
    known = [value for value, settings in tried(study) if settings == search.current]
    if known:
        return known[0]
    value = search.measure(search.current, "in use")
    with suppress(ValueError, TypeError):  # outside of the space they teach Optuna nothing
        study.add_trial(
            create_trial(
                value=value,
                params={key: search.current[key] for key in search.searched},
                distributions=search.probe.distributions,
                user_attrs={"settings": search.current},
            )
        )
    return value


def report(objective: str, name: str, current: Result, results: list[Result]) -> None:
    """Print what was found; write it to params.yaml if it is better than what is there."""
    before, old = current
    after, new = results[0] if results else current
    if after >= before:
        print(
            f"{PARAMS} is unchanged: {objective} {before:.5g} is the best of {len(results)} trials"
        )
        return
    write_settings(name, new)
    table = Table(f"train.{name}", "before", "after", box=None)
    for key in new:
        table.add_row(key, str(old[key]), str(new[key]))
    table.add_row(objective, f"{before:.5g}", f"{after:.5g}")
    open_console().print(table)
    print(f"{PARAMS} has the best of {len(results)} trials now. Next: uv run dvc repro")


def write_settings(name: str, settings: Arguments) -> None:
    """Write the model's parameters to params.yaml; all else in it stays as it is, comments too."""

    def change(document: dict[str, dict[str, Arguments | str]]) -> None:
        train = document.setdefault("train", {})
        if train.get("model") == AUTO:
            train["model"] = name
        section = train.setdefault(name, {})
        for key, value in settings.items():
            if isinstance(section, dict) and section.get(key, math.nan) != value:
                section[key] = value

    files.write_text(PARAMS, edited(PARAMS, change))
