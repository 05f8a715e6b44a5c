import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from mlops_loop.base import files
from mlops_loop.cli.app import APP
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.compare import compare
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.scoring.bundle import open_bundle

GOOD, FAIR, POOR = 4.0, 2.0, 0.5  # how much a model knows of the truth
NOW = datetime.now(UTC)


def outputs(truths: pd.Series, knowledge: float) -> list[dict]:
    """Answers as a model would log them that knows more of the truth or less."""
    schema, draws = load_schema(), np.random.default_rng(0)
    if not schema.classes:
        spread = truths.std() / knowledge
        values = (truths.to_numpy(float) + spread * draws.normal(size=len(truths))).tolist()
        return [{"value": one, "interval": [one - spread, one + spread]} for one in values]
    is_it = truths.to_numpy()[:, None] == np.array(schema.classes, dtype=object)
    chances = np.exp(knowledge * is_it + draws.normal(size=is_it.shape))
    chances /= chances.sum(axis=1, keepdims=True)
    return [
        {
            "label": schema.classes[row.argmax()],
            "probabilities": dict(zip(schema.classes, row, strict=True)),
        }
        for row in chances
    ]


def log(variant: str, knowledge: float, rows: int = 400, outcomes: int = 400) -> None:
    """Log predictions for the first rows of the test window, 4 a request, and some outcomes."""
    schema = load_schema()
    truths = tables.read_table(files.TEST)[schema.target].dropna()
    truths = pd.concat([truths] * (rows // len(truths) + 1)).iloc[:rows]
    version = open_bundle(files.BUNDLE).version if variant == "champion" else "2"
    side = "canary" if variant == "canary" else "answer"
    lines, known = [], []
    pairs = zip(truths, outputs(truths, knowledge), strict=True)
    for number, (truth, output) in enumerate(pairs):
        answered = f"{side:x<20}{number // 4:08d}{number % 4:04x}"
        value = str(truth) if schema.classes else float(truth)
        line = {"id": answered, "paired_with": None, "features": {}, "output": output}
        line |= {"time": NOW - timedelta(seconds=rows - number), "latency_ms": 1.0}
        if variant == "shadow":
            line |= {"id": f"s{answered[1:]}", "paired_with": answered}
        elif number < outcomes:
            known.append({"prediction_id": answered, "value": value, "time": NOW})
        lines.append(line | {"model_version": version, "variant": variant})
    with open_log("sqlite:///predictions.db").begin() as connection:
        connection.execute(sa.insert(PREDICTIONS), lines)
        if known:
            connection.execute(sa.insert(OUTCOMES), known)


@pytest.mark.parametrize("variant", ["canary", "shadow"])
@pytest.mark.parametrize(
    ("knowledge", "verdict"), [(GOOD, "better"), (POOR, "worse"), (FAIR, "open")], ids=str
)
def test_the_better_model_is_told_where_there_is_one(
    project, monkeypatch, variant, knowledge, verdict
) -> None:
    log("champion", FAIR)
    log(variant, knowledge)
    found = compare()
    assert [row.verdict for row in found] == [verdict] + [None] * (len(found) - 1)
    assert found[0].metric in tasks.of(load_schema()).GATE_METRICS
    for row in found:
        assert (row.variant, row.version) == (variant, "2")
        assert (row.champion_outcomes, row.challenger_outcomes) == (400, 400)
        assert row.difference == pytest.approx(row.challenger - row.champion)
        assert row.low <= row.difference <= row.high
    monkeypatch.setenv("COLUMNS", "120")  # pytest-xdist's workers have 80
    shown = CliRunner().invoke(APP, ["compare"])
    assert shown.exit_code == 0
    assert {found[0].metric, verdict} <= set(shown.output.split())
    printed = CliRunner().invoke(APP, ["compare", "--json"])
    assert json.loads(printed.output) == [row.model_dump(mode="json") for row in found]


def test_a_pair_is_judged_more_surely_than_two_crowds(project) -> None:
    log("champion", FAIR)
    log("shadow", FAIR + 0.2)
    log("canary", FAIR + 0.2)
    found = {(row.variant, row.metric): row for row in compare()}
    for name in {metric for _, metric in found}:
        wide, narrow = found["canary", name], found["shadow", name]
        assert narrow.champion == pytest.approx(wide.champion, rel=0.5)
        assert narrow.high - narrow.low < wide.high - wide.low


def test_few_outcomes_tell_nothing(project) -> None:
    assert compare() == []
    shown = CliRunner().invoke(APP, ["compare", "--days", "3"])
    assert (shown.exit_code, "nothing to compare" in shown.output) == (0, True)
    log("champion", FAIR, outcomes=40)
    log("shadow", GOOD)
    log("canary", GOOD, outcomes=0)
    canary, shadow = compare()
    for row, known in ((canary, 0), (shadow, 40)):
        assert (row.verdict, row.difference, row.challenger_outcomes) == ("open", None, known)


def test_only_rows_that_can_be_compared_count(project) -> None:
    """Of a canary those of its own time; of outcomes those that can be truths."""
    log("champion", FAIR)
    log("canary", GOOD, rows=150)
    log("shadow", GOOD)
    with open_log("sqlite:///predictions.db").begin() as connection:
        first = OUTCOMES.c.prediction_id.in_(sa.select(OUTCOMES.c.prediction_id).limit(10))
        connection.execute(sa.update(OUTCOMES).where(first).values(value="no such thing"))
    canary, shadow = (row for row in compare() if row.verdict)
    assert (shadow.champion_outcomes, shadow.verdict) == (390, "better")
    assert (canary.champion_outcomes, canary.challenger_outcomes) == (150, 150)
