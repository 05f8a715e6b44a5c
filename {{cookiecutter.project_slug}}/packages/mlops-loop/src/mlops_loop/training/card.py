"""Card: the model card, written from the run's own evidence; nothing in it is typed by hand.

Its sections follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markdown_it import MarkdownIt
from pyarrow import parquet

from mlops_loop.base import files
from mlops_loop.base.files import REPORTS, TEST, TRAIN, VALIDATION
from mlops_loop.base.params import Params, format_source
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.metrics import tasks
from mlops_loop.scoring.bundle import CARDS

SHOWN = 25  # slices at most
NOT_YET = (
    "Not judged yet: this candidate has not been through `promote`."  # which replaces this line
)
CARD = """# Model card: {name}

{description}

## Intended use

The model predicts {target}. {answers}

It is made for rows like those of the contract, and only for them:

{inputs}

## Data

Source: {source}. {windows_text}

{windows}

## Results on the test window

{results}

The naive baseline predicts {baseline}. {interval_text}

{pictures}
{slices}
{fairness}
{behaviour}
## What it goes by

How much worse {metric} gets when a feature is shuffled on the test window, and how the mean prediction
goes with the features that matter most. Both tell what the model does, not what causes what.

{explanations}
## Limits

{limits}

## Lineage

{lineage}

## Promotion

{not_yet}
"""
BY_TIME = "Split by time: the model learned from the first window, and is judged on the last."
AT_RANDOM = (
    "The table has no time: it was split at random (seed {seed}), {by} by {by}. So the results hold for "
    "more rows like these, and say nothing about how the model ages."
)
EXPLAINED = ("importance", "dependence")
VERDICT = ("gate", "measure", "value", "limit", "passed")  # the fields of gates.Verdict

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 62rem;
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
nav { font-size: 13px; padding-bottom: .75rem; border-bottom: 1px solid #d9e2ec }
nav a { margin-right: 1.25rem } a { color: #0b5cad }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .5rem }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid #d9e2ec }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
table { border-collapse: collapse; margin: .75rem 0; font-size: 13.5px; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #e4e9ef; text-align: left; vertical-align: top;
  overflow-wrap: break-word; max-width: 36rem }
th { background: #f4f6f8; font-weight: 600 }
code { font-size: .92em; background: #f4f6f8; padding: .05em .3em; border-radius: 3px;
  overflow-wrap: anywhere }
img { width: 49%; height: auto; vertical-align: top }
img[alt=importance] { width: 62% } img[alt=dependence] { width: 100% }
@media (max-width: 45rem) { img[alt] { width: 100% } table { display: block; overflow-x: auto } }
@media print { body { max-width: none; font-size: 11px; padding: 0 } nav { display: none }
  table { font-size: 9.5px } img, tr { break-inside: avoid } h2, h3 { break-after: avoid } }
"""


@dataclass(frozen=True)
class Evidence:
    """What `evaluate` found: the content of its reports."""

    metrics: dict[str, Any]
    intervals: dict[str, Any]
    slices: pd.DataFrame
    groups: pd.DataFrame
    behaviour: pd.DataFrame


def plain(text: object) -> str:
    """Return a text so that Markdown shows it as it is: no markup, link or HTML in it counts."""
    special = r"[\\`*\[\]<&|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # not the _ within a name
    return re.sub(special, r"\\\g<0>", " ".join(str(text).split()))


def paragraph(text: object) -> str:
    """Return a text as `plain` does, to begin a line with: no heading, list or quotation."""
    return re.sub(r"^(\d*)([-+=#>.)])", r"\1\\\2", plain(text))


def code(text: object) -> str:
    """Return a text that may stand between backticks."""
    return " ".join(str(text).split()).replace("`", "'")


def table(frame: pd.DataFrame, digits: int = 4) -> str:
    """Return a table as Markdown; fractions are rounded to `digits`."""
    right = [frame[name].map(is_number).all() for name in frame]
    lines = [[plain(name) for name in frame], ["---:" if number else "---" for number in right]]
    lines += [[cell(value, digits) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def cell(value: Any, digits: int) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        counted = value.is_integer() and abs(value) > 1  # not a share of 1.000
        return "" if np.isnan(value) else f"{value:,.0f}" if counted else f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int | np.integer) else plain(value)


def windows(schema: Schema) -> pd.DataFrame:
    """Return how many rows each window has and, where the table has a time, from when to when."""
    found: list[dict[str, Any]] = []
    for path in (TRAIN, VALIDATION, TEST):
        found.append({"window": path.stem, "rows": parquet.read_metadata(path).num_rows})
        if schema.timestamp:
            times = pd.read_parquet(path, columns=[schema.timestamp])[schema.timestamp]
            found[-1] |= {"from": str(times.min()), "to": str(times.max())}
    return pd.DataFrame(found)


def overlap() -> list[str]:
    """Return what `validate` found of test rows that are among the training rows, if it matters."""
    for check in files.read_json(REPORTS / "data/validation.json")["checks"]:
        share = check["failed_rows"] / max(1, check["rows"])
        if check["rule"] == "test rows not to be in the training window" and share > 0.01:
            return [
                f"{share:.1%} of the test rows are also among the training rows: new rows will do worse."
            ]
    return []


def inputs(schema: Schema) -> pd.DataFrame:
    """Return what the contract says of each feature."""
    rows = [
        (name, c.type, c.unit or "", allowed(c), c.description)
        for name, c in schema.features.items()
    ]
    return pd.DataFrame(rows, columns=["feature", "type", "unit", "allowed", "meaning"])


def allowed(column: Column) -> str:
    """Return in a few words which values a column may have."""
    if column.categories is not None:
        values = f"{len(column.categories)} categories" + (
            " and others" if column.allow_unknown else ""
        )
    elif column.type == "boolean":
        values = "true, false"
    else:
        values = " to ".join(
            "any" if limit is None else f"{limit:g}" for limit in (column.minimum, column.maximum)
        )
    return values + (" or missing" if column.nullable else "")


def results(metrics: dict[str, Any], intervals: dict[str, Any]) -> pd.DataFrame:
    """Return each metric of the model with its interval, and the naive baseline's."""
    found = []
    for name, value in metrics["test"].items():
        low, high = intervals.get(name, (None, None))
        between = "" if low is None else f"{low:.4f} to {high:.4f}"
        baseline = metrics["baseline"][name]
        found.append(
            {"metric": name, "model": value, "95 % interval": between, "baseline": baseline}
        )
    return pd.DataFrame(found)


def slices(by_slice: pd.DataFrame, schema: Schema) -> str:
    """Return the section on the slices, the worst first."""
    if not len(by_slice):
        return ""
    metric, more_is_better = next(iter(tasks.of(schema).GATE_METRICS.items()))
    ranked = by_slice.sort_values(metric, ascending=more_is_better, kind="stable")
    which = (
        f"The worst {SHOWN} of {len(ranked)} slices"
        if len(ranked) > SHOWN
        else "The worst slice first"
    )
    return f"### By slice\n\n{which}.\n\n{table(ranked.head(SHOWN), 3)}\n"


def protected(by_group: pd.DataFrame, schema: Schema) -> str:
    """Return the section on groups of people; nothing where the contract marks no column `protected`."""
    if not schema.protected:
        return ""
    names = ", ".join(map(plain, schema.protected))
    text = f"By {names}, which the contract marks as protected: the groups are to be treated alike."
    groups = table(by_group, 3) if len(by_group) else "No group has enough rows to be judged."
    return f"### Fairness\n\n{text}\n\n{groups}\n"


def behaved(found: pd.DataFrame) -> str:
    """Return the section on the tests of behaviour.yaml."""
    if not len(found):
        return ""
    text = "Tests that `behaviour.yaml` declares: what must not change a prediction, what must, and how."
    return f"### Behaviour\n\n{text}\n\n{table(found, 3)}\n"


def pictures(names: list[str]) -> str:
    return "\n".join(f"![{name}](plots/{name}.png)" for name in names) + "\n"


def card(
    schema: Schema, params: Params, found: Evidence, plots: list[str], hashes: dict[str, str]
) -> str:
    """Return the model card as Markdown.

    `plots` names the pictures beside it in plots/; `hashes` are the facts of the lineage. Texts of the
    contract and values of the data are shown as they are: nothing in them is taken as Markdown or HTML.
    """
    target, task = schema.columns[schema.target], tasks.of(schema)
    by, kind = params.evaluate.baseline_by, "class" if schema.classes else "decile of the target"
    usual = "share of each class" if schema.classes else "median"
    about = f"**{plain(schema.target)}**" + (f", in {plain(target.unit)}" if target.unit else "")
    about += f" ({plain(target.description)})" if target.description else ""
    seen = f"It was judged on {found.metrics['test']['rows']:,} rows"
    period = " of one period, with its season" if schema.timestamp else ""
    limits = [
        *overlap(),
        f"{seen}{period}. Habits change: watch it.",
        f"Estimator: {params.train.model}. It knows only the categories and ranges of the contract.",
        *([paragraph(schema.limits)] if schema.limits else []),
    ]
    named = schema.model_copy(update={"positive": code(schema.positive)})
    resampled = "days (rows, if they are fewer than 20)" if schema.timestamp else "rows"
    lineage = {"estimator": params.train.model, **getattr(params.train, params.train.model)}
    facts = pd.DataFrame([(name, str(value)) for name, value in (lineage | hashes).items()])
    return CARD.format(
        name=plain(schema.name),
        description=paragraph(schema.description),
        target=about,
        answers=task.ANSWER_TEXT.format(schema=named, metrics=found.metrics, params=params),
        inputs=table(inputs(schema)),
        source=plain(format_source(params.ingest.source)),
        windows_text=BY_TIME
        if schema.timestamp
        else AT_RANDOM.format(seed=params.split.seed, by=kind),
        windows=table(windows(schema)),
        results=table(results(found.metrics, found.intervals)),
        baseline=f"the training window's {usual}"
        + (f" for each value of {plain(by)}" if by else ""),
        interval_text=f"The intervals come from resampling the {resampled} of the test window.",
        pictures=pictures([name for name in plots if name not in EXPLAINED]),
        slices=slices(found.slices, schema),
        fairness=protected(found.groups, schema),
        behaviour=behaved(found.behaviour),
        metric=next(iter(task.GATE_METRICS)),
        explanations=pictures([name for name in EXPLAINED if name in plots]),
        limits="\n".join(f"- {limit}" for limit in limits),
        lineage=table(facts.set_axis(["what", "value"], axis="columns")),
        not_yet=NOT_YET,
    )


def complete(markdown: str, promotion: dict[str, Any]) -> str:
    """Return the card with the gates' verdicts, who promoted it and when, and its lineage.

    `promotion` is the version's record: `version`, `run_id` and the registry's tags.
    """
    what = {
        "version": "version",
        "promoted by": "promoted_by",
        "promoted at": "promoted_at",
        "refused": "refused",
        "commit": "git_commit",
        "SHA-256 of dvc.lock": "dvc_lock",
        "SHA-256 of bundle.json": "bundle_sha256",
        "MLflow run": "run_id",
    }
    known = [(name, str(promotion[key])) for name, key in what.items() if promotion.get(key)]
    parts = [table(pd.DataFrame(known, columns=["what", "value"]))]
    if verdicts := promotion.get("gates"):
        words = {True: "passed", False: "refused", None: "not judged"}
        rows = []
        for verdict in verdicts:
            gate, measure, value, limit, passed = (verdict[key] for key in VERDICT)
            rows.append(
                (gate, measure, "" if value is None else f"{value:.4g}", limit, words[passed])
            )
        parts.append(table(pd.DataFrame(rows, columns=[*VERDICT[:4], "verdict"])))
    before, marker, after = markdown.rpartition(NOT_YET)  # the last one: a contract may quote it
    if not marker:
        before, after = f"{markdown.rstrip()}\n\n## Promotion\n\n", "\n"
    return before + "\n\n".join(parts) + after


def finish(folder: Path, promotion: dict[str, Any]) -> dict[str, str]:
    """Complete the card in a bundle's folder; return the new hashes of its files."""
    markdown = complete((folder / "card.md").read_text(encoding="utf-8"), promotion)
    files.write_text(folder / "card.md", markdown)
    files.write_text(folder / "card.html", page(markdown, folder))
    return {name: files.sha256(folder / name) for name in sorted(CARDS)}


def page(markdown: str, folder: Path) -> str:
    """Return the card as an HTML page that needs nothing else; its pictures are read from `folder`."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    for image in [
        part for token in tokens for part in token.children or () if part.type == "image"
    ]:
        image.attrs["src"] = embedded(str(image.attrs["src"]), folder)
    body = reader.renderer.render(tokens, reader.options, {})
    title = next(token.content for token in tokens if token.type == "inline")
    title = re.sub(r"\\(.)", r"\1", title)  # the first heading, without what `plain` put there
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


def embedded(source: str, folder: Path) -> str:
    """Return a picture of the bundle as a data URL, and nothing for any other: no file or site is asked."""
    if not re.fullmatch(r"plots/[\w-]+\.png", source):
        return ""
    return f"data:image/png;base64,{b64encode((folder / source).read_bytes()).decode()}"
