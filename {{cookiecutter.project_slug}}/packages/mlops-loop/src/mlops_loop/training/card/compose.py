"""The model card as Markdown; nothing in it is typed by hand.

Its sections follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019. The text is
`card.md` among the templates of `reporting`.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mlops_loop.base.params import Params, format_source
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Intervals, Measured
from mlops_loop.reporting import formats, markdown
from mlops_loop.reporting.markdown import code
from mlops_loop.scoring.manifest import Estimator
from mlops_loop.training.card import sections
from mlops_loop.training.card.promotion import NOT_YET
from mlops_loop.training.metric_tables import results, rows_of

EXPLAINED = ("importance", "dependence")  # plots with a section of their own


@dataclass(frozen=True)
class Evidence:
    """What `evaluate` found: the content of its reports."""

    metrics: Measured
    intervals: Intervals
    slices: pd.DataFrame
    groups: pd.DataFrame
    behaviour: pd.DataFrame
    candidates: pd.DataFrame  # that `train.model: auto` compared


@dataclass(frozen=True)
class Subject:
    """What the card is about: the contract, the parameters, and the estimator that was fitted."""

    schema: Schema
    params: Params
    estimator: Estimator


@dataclass(frozen=True)
class Owner:
    """Who answers for the model, and its licence."""

    people: list[str]
    licence: str


def card(about: Subject, found: Evidence, plots: list[str], hashes: dict[str, str]) -> str:
    """Return the model card as Markdown.

    `plots` names the pictures beside it in plots/; `hashes` are the facts of the lineage.
    """
    schema = about.schema
    estimator = about.estimator
    return markdown.render(
        "card.md",
        name=current_project().name,
        owner=owner(Path("pyproject.toml")),
        schema=schema,
        params=about.params,
        target=schema.columns[schema.target],
        answers=answers(about, found),
        inputs=sections.inputs(schema),
        source=format_source(about.params.ingest.source),
        windows=sections.windows(schema),
        results=results(found.metrics, found.intervals),
        plots=plots,
        explained=EXPLAINED,
        slices=rows_of(worst_first(found.slices, schema)),
        groups=rows_of(found.groups),
        behaviour=rows_of(found.behaviour),
        candidates=rows_of(found.candidates),
        metric=tasks.deciding_metric(schema)[0],
        overlap=sections.overlap(),
        rows=formats.number(found.metrics["test"]["rows"]),
        estimator=estimator,
        lineage=({"estimator": estimator.name} | estimator.params | hashes).items(),
        not_yet=NOT_YET,
    )


def owner(path: Path) -> Owner:
    """Return what the project's pyproject.toml says, if there is one."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}
    people = [
        ", ".join(filter(None, (person.get("name"), person.get("email"))))
        for person in found.get("authors", [])
    ]
    licence = found.get("license", "")  # a name, or a table that names a file
    return Owner(people, licence if isinstance(licence, str) else "")


def answers(about: Subject, found: Evidence) -> str:
    """Return the task's sentence on how the model answers."""
    named = about.schema.model_copy(update={"positive": code(about.schema.positive)})
    text = tasks.of(about.schema).ANSWER_TEXT
    return text.format(schema=named, metrics=found.metrics, params=about.params)


def worst_first(by_slice: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    metric, more_is_better = tasks.deciding_metric(schema)
    if metric not in by_slice:  # there is no slice
        return by_slice
    return by_slice.sort_values(metric, ascending=more_is_better, kind="stable")
