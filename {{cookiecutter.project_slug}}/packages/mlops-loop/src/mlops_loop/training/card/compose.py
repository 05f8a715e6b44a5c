"""The model card as Markdown; nothing in it is typed by hand.

Its sections follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from dataclasses import dataclass

import pandas as pd

from mlops_loop.base.params.ingest import format_source
from mlops_loop.base.params.params_file import Params
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Intervals, Measured
from mlops_loop.reporting.markdown import code, paragraph, plain, table
from mlops_loop.scoring.manifest import Estimator
from mlops_loop.training.card import sections
from mlops_loop.training.card.promotion import NOT_YET

EXPLAINED = ("importance", "dependence")
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
## Feature importance and partial dependence

How much worse {metric} gets when a feature is shuffled on the test window, and how the mean
prediction goes with the features that matter most. Both tell what the model does, not what causes
what.

{explanations}
{candidates}
## Limits

{limits}

## Lineage

{lineage}

## Promotion

{not_yet}
"""
BY_TIME = "Split by time: the model learned from the first window, and is judged on the last."
AT_RANDOM = (
    "The table has no time: it was split at random (seed {seed}), {by} by {by}. So the results "
    "hold for more rows like these, and say nothing about how the model ages."
)


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


def card(about: Subject, found: Evidence, plots: list[str], hashes: dict[str, str]) -> str:
    """Return the model card as Markdown.

    `plots` names the pictures beside it in plots/; `hashes` are the facts of the lineage. Texts of
    the contract and values of the data are shown as they are: nothing in them is taken as Markdown
    or HTML.
    """
    schema = about.schema
    task = tasks.of(about.schema)
    resampled = "days (rows, if they are fewer than 20)" if schema.timestamp else "rows"
    return CARD.format(
        name=current_project().name,
        description=paragraph(schema.description),
        target=target(schema),
        answers=answers(about, found),
        inputs=table(sections.inputs(schema)),
        source=plain(format_source(about.params.ingest.source)),
        windows_text=windows_text(about),
        windows=table(sections.windows(schema)),
        results=table(sections.results(found.metrics, found.intervals)),
        baseline=baseline(about),
        interval_text=f"The intervals come from resampling the {resampled} of the test window.",
        pictures=sections.pictures([name for name in plots if name not in EXPLAINED]),
        slices=sections.slices(found.slices, schema),
        fairness=sections.protected(found.groups, schema),
        behaviour=sections.behaved(found.behaviour),
        metric=next(iter(task.GATE_METRICS)),
        explanations=sections.pictures([name for name in EXPLAINED if name in plots]),
        candidates=sections.candidates(found.candidates),
        limits="\n".join(f"- {limit}" for limit in limits(about, found)),
        lineage=lineage(about.estimator, hashes),
        not_yet=NOT_YET,
    )


def target(schema: Schema) -> str:
    """Return what is predicted: the target with its unit and meaning."""
    column = schema.columns[schema.target]
    unit = f", in {plain(column.unit)}" if column.unit else ""
    meaning = f" ({plain(column.description)})" if column.description else ""
    return f"**{plain(schema.target)}**{unit}{meaning}"


def answers(about: Subject, found: Evidence) -> str:
    """Return the task's sentence on how the model answers."""
    named = about.schema.model_copy(update={"positive": code(about.schema.positive)})
    text = tasks.of(about.schema).ANSWER_TEXT
    return text.format(schema=named, metrics=found.metrics, params=about.params)


def windows_text(about: Subject) -> str:
    if about.schema.timestamp:
        return BY_TIME
    by = "class" if about.schema.classes else "decile of the target"
    return AT_RANDOM.format(seed=about.params.split.seed, by=by)


def baseline(about: Subject) -> str:
    usual = "share of each class" if about.schema.classes else "median"
    by = about.params.evaluate.baseline_by
    return f"the training window's {usual}" + (f" for each value of {plain(by)}" if by else "")


def limits(about: Subject, found: Evidence) -> list[str]:
    """Return what a reader should know before trusting the results."""
    seen = f"It was judged on {found.metrics['test']['rows']:,} rows"
    period = " of one period, with its season" if about.schema.timestamp else ""
    name = about.estimator.name
    own = about.schema.limits
    return [
        *sections.overlap(),
        f"{seen}{period}. Habits change: watch it.",
        f"Estimator: {name}. It knows only the categories and ranges of the contract.",
        *([paragraph(own)] if own else []),
    ]


def lineage(estimator: Estimator, hashes: dict[str, str]) -> str:
    """Return the table of estimator, parameters, and hashes of what it was made from."""
    facts = {"estimator": estimator.name, **estimator.params, **hashes}
    rows = [(name, str(value)) for name, value in facts.items()]
    return table(pd.DataFrame(rows, columns=["what", "value"]))
