"""The model card as Markdown, from the run's own evidence; nothing in it is typed by hand.

Its sections follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019. The text is
`card.md` among the templates of `reporting`.
"""

import shutil
import tomllib
from pathlib import Path

import pandas as pd

from mlops_loop.base import files
from mlops_loop.base.params import Params, format_source
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.reporting import markdown
from mlops_loop.reporting.formats import moment, number
from mlops_loop.reporting.markdown import Row, code
from mlops_loop.scoring.bundle import Estimator, Manifest
from mlops_loop.training.card.promotion import NOT_YET, card_page
from mlops_loop.training.cross_validation import load_comparison
from mlops_loop.training.evaluation_page import results, rows_of

EXPLAINED = ("importance", "dependence")  # plots with a section of their own
OVERLAP = "test rows not to be in the training window"


def write(
    folder: Path, schema: Schema, params: Params, estimator: Estimator, made: Manifest
) -> None:
    """Write a bundle's card.md and card.html, with the plots they show."""
    (folder / "plots").mkdir()
    for picture in files.PLOTS.glob("*.png"):
        shutil.copy(picture, folder / "plots")
    text = card(schema, params, estimator, made)
    (folder / "card.md").write_text(text, encoding="utf-8")
    (folder / "card.html").write_text(card_page(text, folder), encoding="utf-8")


def card(schema: Schema, params: Params, estimator: Estimator, made: Manifest) -> str:
    """Return the card of what the reports of `evaluate` say."""
    metrics = files.read_json(files.METRICS)
    slices = pd.read_csv(
        files.SLICES, converters={"value": str}
    )  # a value may be called NA, or 007
    groups = pd.read_csv(files.FAIRNESS, converters={"group": str})
    metric, more_is_better = tasks.deciding_metric(schema)
    if metric in slices:  # else there is no slice
        slices = slices.sort_values(metric, ascending=more_is_better, kind="stable")
    named = schema.model_copy(update={"positive": code(schema.positive)})
    answers = tasks.of(schema).ANSWER_TEXT.format(schema=named, metrics=metrics, params=params)
    lineage = {"estimator": estimator.name} | estimator.params
    lineage["SHA-256 of the parameters"] = made.params_sha256
    lineage |= {f"SHA-256 of {name}": value for name, value in made.data_sha256.items()}
    return markdown.render(
        "card.md",
        name=current_project().name,
        project=pyproject(),
        schema=schema,
        params=params,
        target=schema.columns[schema.target],
        answers=answers,
        shown={**schema.inputs, **schema.features},
        source=format_source(params.ingest.source),
        windows=windows(schema),
        results=results(metrics, files.read_json(files.INTERVALS)),
        plots=sorted(picture.stem for picture in files.PLOTS.glob("*.png")),
        explained=EXPLAINED,
        slices=rows_of(slices),
        groups=rows_of(groups),
        behaviour=rows_of(pd.read_csv(files.BEHAVED)),
        candidates=rows_of(load_comparison().table),
        metric=metric,
        overlap=overlap(),
        rows=number(metrics["test"]["rows"]),
        estimator=estimator,
        lineage=lineage.items(),
        not_yet=NOT_YET,
    )


def pyproject() -> dict[str, object]:
    """Return what the project's pyproject.toml says of it: who made it, and its licence."""
    path = Path("pyproject.toml")
    found = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}
    return {"authors": [], "license": {}} | found


def windows(schema: Schema) -> tuple[list[str], list[Row]]:
    """Return how many rows each window has and, where the table has a time, from when to when."""
    rows: list[Row] = []
    for path in (files.TRAIN, files.VALIDATION, files.TEST):
        column = pd.read_parquet(path, columns=[schema.timestamp or schema.target]).iloc[:, 0]
        ends = [moment(column.min()), moment(column.max())] if schema.timestamp else []
        rows.append([path.stem, len(column), *ends])
    return ["window", "rows", *(["from", "to"] if schema.timestamp else [])], rows


def overlap() -> float:
    """Return which share of the test rows `validate` found among the training rows."""
    for check in files.read_json(files.REPORTS / "data/validation.json")["checks"]:
        if check["rule"] == OVERLAP:
            return float(check["failed_rows"] / max(1, check["rows"]))
    return 0.0
