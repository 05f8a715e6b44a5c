"""Adapt params.yaml, dvc.yaml and behaviour.yaml to the table; nothing of the former one stays."""

from importlib.resources import files
from pathlib import Path
from typing import TypedDict

from pydantic import JsonValue
from ruamel.yaml import YAML

from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BEHAVIOUR, DVC, PARAMS, SCHEMA
from mlops_loop.base.params import AUTO, Sql
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.onboarding.infer.contract import former_task
from mlops_loop.training.behaviour import load_behaviour, without_tests


class Pipeline(TypedDict):
    """What is changed of dvc.yaml."""

    stages: dict[str, dict[str, list[str]]]
    plots: list[JsonValue]


def new_params(source: str | Sql, schema: Schema) -> str:
    """Return params.yaml for the source: without dates or columns of the former one."""
    task = tasks.of(schema)

    def change(params: dict[str, dict[str, JsonValue]]) -> None:
        for section in ("ingest", "split", "evaluate", "train"):
            params.setdefault(section, {})
        params["ingest"]["source"] = source if isinstance(source, str) else source.model_dump()
        params["ingest"] |= {"start": None, "end": None}
        params["split"] |= {"train_end": None, "validation_end": None}
        params["evaluate"]["baseline_by"] = None
        if current_project().candidates:
            params["train"]["model"] = AUTO
        slices = params.get("gates", {}).get("slices")
        # Its limits were of other metrics.
        if isinstance(slices, dict) and former_task() != schema.task:
            slices.update(task.SLICE_LIMITS)

    return edited(PARAMS, change)


def new_behaviour(schema: Schema) -> tuple[str | None, str]:
    """Return behaviour.yaml, or None if the present one stays; and what became of its tests.

    Tests of another table do not fit this one's contract: then all give way to an example.
    """
    outcome = f"none yet, see the example in {BEHAVIOUR}"
    try:
        if BEHAVIOUR.exists() and load_behaviour(schema).cases:
            return None, "kept, as each fits the contract"
    except Failure as misfit:
        outcome = f"those of another table are removed ({misfit}); see the example in {BEHAVIOUR}"
    return without_tests(schema), outcome


def new_pipeline(source: str | Sql, schema: Schema, removed: list[Path]) -> str:
    """Return dvc.yaml for the source: `ingest` runs again when the file changes."""
    is_file = isinstance(source, str) and "://" not in source
    own = [str(source).replace("${", "\\${")] if is_file else []
    kind = "classification" if schema.classes else "regression"
    text = (files("mlops_loop.training") / "dvc_plots" / f"{kind}.yaml").read_text("utf-8")

    def change(pipeline: Pipeline) -> None:
        for name, stage in pipeline["stages"].items():
            kept = [dep for dep in stage["deps"] if not is_gone(str(dep), removed)]
            if name == "ingest":
                code = [dep for dep in kept if str(dep).startswith(("src/", "packages/"))]
                kept = [str(SCHEMA), *own, *code]
            if kept != list(stage["deps"]):
                stage["deps"][:] = kept
        if pipeline["plots"] != (plots := YAML().load(text)["plots"]):
            pipeline["plots"] = plots

    return edited(DVC, change)


def is_gone(dep: str, removed: list[Path]) -> bool:
    return Path(dep) in removed or (dep.endswith("/flights.py") and not Path(dep).exists())
