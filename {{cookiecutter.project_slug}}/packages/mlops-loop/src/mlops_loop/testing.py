"""Run the project's pipeline on a sample of its rows: what a project's own tests need.

For `tests/` only. `run_on_sample()` trains in a folder of its own; the `Sample` that it returns
holds the rows, the model and the API.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from mlops_loop.base import files, project
from mlops_loop.base.params import Params, load_params
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.contract.values import Value
from mlops_loop.data import ingest, tables
from mlops_loop.data.derived import check_contract, with_derived
from mlops_loop.scoring import skops_model
from mlops_loop.training.fit import target

STAGES = (
    *("data.validate", "data.split"),
    *("training.train", "training.evaluate", "training.export"),
)
OF_EACH_CLASS = 30  # rows that a sample has at least, where there are so many


@dataclass(frozen=True)
class Sample:
    """Some rows of the project's source, and what the pipeline made of them in `folder`."""

    folder: Path
    schema: Schema
    params: Params
    rows: pd.DataFrame
    train: pd.DataFrame
    test: pd.DataFrame
    model: Pipeline

    def inputs(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the columns that the model is given; derives those that the table lacks."""
        return skops_model.inputs(with_derived(table, self.schema), self.schema)

    def target(self, table: pd.DataFrame) -> NDArray[np.int64 | np.float64]:
        """Return what the model learns: values, or the number of each row's class."""
        return target(table, self.schema)

    def scores(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return the model's probabilities, one column a class; of a regression its values."""
        return skops_model.scores(self.model, table, self.schema)

    def requests(self, table: pd.DataFrame) -> list[dict[str, Value]]:
        """Return the rows as a client sends them to the API."""
        return tables.as_json(table, self.schema)

    @contextmanager
    def api(self) -> Iterator[TestClient]:
        """Serve the bundle in this process; give a client of the API."""
        from mlops_loop.serving.app import create_app

        served = {"BUNDLE": str(files.BUNDLE), "PREDICTION_LOG_URL": "sqlite:///predictions.db"}
        with chdir(self.folder), mock.patch.dict(os.environ, served):
            os.environ.pop("API_KEYS", None)
            with TestClient(create_app(), "http://127.0.0.1") as client:
                yield client


def run_on_sample(plugged_in: project.Project, folder: Path, rows: int = 5000) -> Sample:
    """Run every stage on `rows` rows of the source, in `folder`, for the project in this one."""
    project.use(plugged_in)
    for file in (files.SCHEMA, files.PARAMS, files.BEHAVIOUR):
        shutil.copy(file, folder)
    schema = load_schema()
    params = load_params()
    raw = folder / files.RAW
    ingest.store(schema, params.ingest, raw)
    tables.write_table(raw, sample(tables.read_table(raw), schema, rows))
    with chdir(folder), mock.patch.dict(os.environ):
        # Absolute, because MLflow remembers where a relative one was first.
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder.as_posix()}/mlflow.db"
        tolerate_a_sample()
        for stage in STAGES:
            import_module(f"mlops_loop.{stage}").main()
        windows = {path.stem: tables.read_table(path) for path in (files.TRAIN, files.TEST)}
        typed, _ = check_contract(pq.read_table(files.RAW), schema)
        derived = typed.select(list(schema.derived)).to_pandas()
        found = (
            tables.read_table(files.RAW).join(derived),
            *windows.values(),
            skops_model.load(files.MODEL),
        )
        chosen = files.read_json(files.COMPARISON)["chosen"]  # where params.yaml says `auto`
        train = params.train.model_copy(update={"model": chosen})
        return Sample(folder, schema, params.model_copy(update={"train": train}), *found)


def sample(table: pd.DataFrame, schema: Schema, rows: int) -> pd.DataFrame:
    """Return about `rows` rows, evenly spaced, with some of each class among them."""
    chosen = np.zeros(len(table), dtype=bool)
    chosen[:: max(1, len(table) // rows)] = True
    if schema.classes:
        chosen |= (table.groupby(schema.target).cumcount() < OF_EACH_CLASS).to_numpy()
    return table[chosen].reset_index(drop=True)


def tolerate_a_sample() -> None:
    """Drop the limits of schema.yaml and params.yaml that hold for the whole table only."""
    contract = yaml.safe_load(files.SCHEMA.read_text(encoding="utf-8"))
    contract |= {"min_rows": 1, "max_duplicates": 1, "max_overlap": 1}
    files.write_text(files.SCHEMA, yaml.safe_dump(contract, sort_keys=False, allow_unicode=True))
    params = yaml.safe_load(files.PARAMS.read_text(encoding="utf-8"))
    if params.get("segments"):
        params["segments"]["min_rows"] = OF_EACH_CLASS
        files.write_text(files.PARAMS, yaml.safe_dump(params, sort_keys=False))
