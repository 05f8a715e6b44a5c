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
from mlops_loop.monitoring.compare import LabelCounts, compare
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import OUTCOMES, PREDICTIONS
from mlops_loop.scoring.bundle import open_bundle

GOOD, FAIR, POOR = 4.0, 2.0, 0.5  # how much a model knows of the truth
NOW = datetime.now(UTC)


def outputs(truths: pd.Series, knowledge: float, seed: int) -> list[dict]:
    """Answers as a model would log them that knows more of the truth or less."""
    schema, draws = load_schema(), np.random.default_rng(seed)
    if schema.classes:
        noise = draws.normal(size=(len(truths), len(schema.classes)))
        is_it = truths.to_numpy()[:, None] == np.array(schema.classes, dtype=object)
        chances = np.exp(knowledge * is_it + noise)
        chances /= chances.sum(axis=1, keepdims=True)
        return [
            {
                "label": schema.classes[row.argmax()],
                "probabilities": dict(zip(schema.classes, row, strict=True)),
            }
            for row in chances
        ]
    spread = truths.std() / knowledge
    values = truths.to_numpy(float) + spread * draws.normal(size=len(truths))
    return [
        {"value": value, "interval": [value - spread, value + spread]} for value in values.tolist()
    ]


def log(
    variant: str, knowledge: float, rows: int = 400, outcomes: int = 400, seed: int = 0
) -> None:
    """Log predictions for the first rows of the test window, 4 a request, and some outcomes."""
    schema = load_schema()
    truths = tables.read_table(files.TEST)[schema.target].dropna()
    truths = pd.concat([truths] * (rows // len(truths) + 1)).iloc[:rows]
    version = open_bundle(files.BUNDLE).version if variant == "champion" else "2"
    lines, known = [], []
    for number, (truth, output) in enumerate(
        zip(truths, outputs(truths, knowledge, seed), strict=True)
    ):
        answered = (
            f"{'canary' if variant == 'canary' else 'answer':x<20}{number // 4:08d}{number % 4:04x}"
        )
        time = NOW - timedelta(seconds=rows - number)
        value = str(truth) if schema.classes else float(truth)
        if number < outcomes and variant != "shadow":
            known.append({"prediction_id": answered, "value": value, "time": NOW})
        shadow = {"id": f"s{answered[1:]}", "paired_with": answered}
        line = {"id": answered, "paired_with": None} | (shadow if variant == "shadow" else {})
        line |= {"time": time, "model_version": version, "variant": variant, "features": {}}
        lines.append(line | {"output": output, "latency_ms": 1.0})
    with open_log("sqlite:///predictions.db").begin() as connection:
        connection.execute(sa.insert(PREDICTIONS), lines)
        if known:
            connection.execute(sa.insert(OUTCOMES), known)


@pytest.mark.parametrize("variant", ["canary", "shadow"])
@pytest.mark.parametrize(
    ("knowledge", "verdict"), [(GOOD, "better"), (POOR, "worse"), (FAIR, "open")], ids=str
)
def test_the_better_model_is_told_where_there_is_one(project, variant, knowledge, verdict) -> None:
    log("champion", FAIR)
    log(variant, knowledge)
    (found,) = compare().challengers
    assert (found.variant, found.version, found.verdict) == (variant, "2", verdict)
    assert found.outcomes == LabelCounts(champion=400, challenger=400)
    for sides in found.metrics.values():
        expected = sides.challenger.value - sides.champion.value
        assert sides.difference.value == pytest.approx(expected)
        for side in (sides.champion, sides.challenger, sides.difference):
            assert side.low <= side.value <= side.high
    shown = CliRunner().invoke(APP, ["compare"])
    assert shown.exit_code == 0
    words = {"better": "is better", "worse": "is worse", "open": "cannot be told"}[verdict]
    assert f"{variant} 2 {words}" in shown.output
    printed = CliRunner().invoke(APP, ["compare", "--json"])
    assert json.loads(printed.output)["challengers"] == [found.model_dump(mode="json")]


def test_a_pair_is_judged_more_surely_than_two_crowds(project) -> None:
    log("champion", FAIR)
    log("shadow", FAIR + 0.2)
    log("canary", FAIR + 0.2)
    found = {one.variant: one.metrics for one in compare().challengers}
    for name, sides in found["shadow"].items():
        wide, narrow = (found[x][name].difference for x in ("canary", "shadow"))
        assert sides.champion.value == pytest.approx(found["canary"][name].champion.value, rel=0.5)
        assert narrow.high - narrow.low < wide.high - wide.low


def test_few_outcomes_tell_nothing(project) -> None:
    assert compare().challengers == []
    shown = CliRunner().invoke(APP, ["compare", "--days", "3"])
    assert (shown.exit_code, "nothing to compare" in shown.output) == (0, True)
    log("champion", FAIR, outcomes=40)
    log("shadow", GOOD)
    log("canary", GOOD, outcomes=0)
    canary, shadow = compare().challengers
    for found, known in ((canary, 0), (shadow, 40)):
        assert (found.verdict, found.metrics, found.predictions) == ("open", {}, 400)
        assert found.reason == f"too few outcomes: {known}, 100 are needed"
        assert found.outcomes.challenger == known


def test_a_canary_is_compared_with_its_own_time_only(project) -> None:
    log("champion", FAIR)
    log("canary", GOOD, rows=150)
    (found,) = compare().challengers
    assert found.outcomes == LabelCounts(champion=150, challenger=150)


def test_outcomes_that_cannot_be_truths_are_left_out(project) -> None:
    log("champion", FAIR)
    log("shadow", GOOD)
    with open_log("sqlite:///predictions.db").begin() as connection:
        first = sa.select(OUTCOMES.c.prediction_id).limit(10)
        connection.execute(
            sa.update(OUTCOMES)
            .where(OUTCOMES.c.prediction_id.in_(first))
            .values(value="no such thing")
        )
    (found,) = compare().challengers
    assert (found.outcomes.champion, found.verdict) == (390, "better")
