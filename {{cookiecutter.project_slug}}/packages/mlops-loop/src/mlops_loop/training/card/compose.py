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
from mlops_loop.reporting.formats import moment
from mlops_loop.reporting.markdown import Row
from mlops_loop.scoring.bundle import Manifest
from mlops_loop.training.card.promotion import NOT_YET, card_page
from mlops_loop.training.cross_validation import load_comparison
from mlops_loop.training.evidence import Evidence, Table


def write(
    folder: Path, schema: Schema, params: Params, manifest: Manifest, evidence: Evidence
) -> None:
    """Write a bundle's card.md and card.html, with the plots they show."""
    shutil.copytree(files.PLOTS, folder / "plots", ignore=shutil.ignore_patterns("*.csv"))
    path = Path("pyproject.toml")
    found = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}
    text = markdown.render(
        "card.md",
        name=current_project().name,
        project={"authors": [], "license": {}} | found,
        schema=schema,
        params=params,
        manifest=manifest,
        evidence=evidence,
        comparison=load_comparison(),
        source=format_source(params.ingest.source),
        windows=windows(schema),
        metric=tasks.deciding_metric(schema)[0],
        not_yet=NOT_YET,
    )
    (folder / "card.md").write_text(text, encoding="utf-8")
    (folder / "card.html").write_text(card_page(text, folder), encoding="utf-8")


def windows(schema: Schema) -> Table:
    """Return how many rows each window has and, where the table has a time, from when to when."""
    rows: list[Row] = []
    for path in (files.TRAIN, files.VALIDATION, files.TEST):
        column = pd.read_parquet(path, columns=[schema.timestamp or schema.target]).iloc[:, 0]
        ends = [moment(column.min()), moment(column.max())] if schema.timestamp else []
        rows.append([path.stem, len(column), *ends])
    return ["window", "rows", *(["from", "to"] if schema.timestamp else [])], rows
