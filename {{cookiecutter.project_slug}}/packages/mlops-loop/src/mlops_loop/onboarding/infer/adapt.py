"""What a table changes in the project: schema.yaml, params.yaml, dvc.yaml and behaviour.yaml.

Nothing of the former table stays.
"""

from collections.abc import Mapping
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from textwrap import indent
from typing import TypedDict

import yaml
from pydantic import JsonValue
from ruamel.yaml import YAML

from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BEHAVIOUR, DVC, PARAMS, SCHEMA
from mlops_loop.base.params import AUTO, Sql
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.onboarding.infer.columns import Proposal, tidy
from mlops_loop.training.behaviour import load_behaviour, without_tests

HEAD = """\
# The data contract: what each column of the table is. The Great Expectations suite, the API's
# types and texts, the model's inputs, the drift report and the model card are derived from it.
#
# type: number, integer, category, boolean, id or timestamp
# role: feature (default), input (the API takes it, the model does not see it), target, timestamp,
#   id, slice or ignored
# derived: true is a feature (or slice) that `derive` in features.py computes from the inputs
# slice: true evaluates the model on each value of the column
"""
INFERRED = "# Inferred from "


def new_schema(schema: Schema, proposals: Mapping[str, Proposal], source: str) -> str:
    """Return schema.yaml: the present one's head, and without the keys that have their default."""
    parts = [*head(), f"{INFERRED}{printable(source)}: correct what you know better.\n"]
    about = schema.model_dump(exclude={"columns"}, exclude_defaults=True, mode="json")
    parts += [dump(key, value) for key, value in about.items()]
    parts.append("columns:\n")
    for name, found in proposals.items():
        ignored = "ignored: " * (found.column.role == "ignored")
        keys = found.column.model_dump(mode="json", exclude_unset=True)
        tidied = {key: tidy(one) if type(one) is float else one for key, one in keys.items()}
        parts.append(f"  # {ignored}{printable(found.reason)}\n")
        parts.append(indent(dump(name, tidied), "  "))
    return "".join(parts)


def head() -> list[str]:
    """Return the comments at the top of schema.yaml, less where it was inferred from."""
    present = SCHEMA.read_text(encoding="utf-8") if SCHEMA.exists() else ""
    lines = takewhile(lambda line: line.startswith("#"), present.splitlines(keepends=True))
    return [line for line in lines if not line.startswith(INFERRED)] or [HEAD]


def dump(key: str, value: object) -> str:
    """Return a key and its value in YAML, lists and mappings on one line if they are short."""
    content = {key: value}
    # PyYAML writes the line break U+0085 as it is, and reads it as a space.
    readable = "\x85" not in str(content) and "\\x85" not in str(content)
    flow = None if isinstance(value, list | dict) else False
    return yaml.safe_dump(
        content, default_flow_style=flow, sort_keys=False, allow_unicode=readable, width=100
    )


def printable(text: str) -> str:
    """Return a text on one line, without what a YAML comment cannot hold."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "?" for char in line)


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
        segments = params.get("segments")
        if isinstance(segments, dict) and segments.get("column") not in schema.categorical:
            params["segments"] = None  # type: ignore[assignment] # a section that is off
        if current_project().candidates:
            params["train"]["model"] = AUTO
        if isinstance(slices := params.get("gates", {}).get("slices"), dict):
            slices.update(task.SLICE_LIMITS)  # those of another table, or metric, do not fit

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
