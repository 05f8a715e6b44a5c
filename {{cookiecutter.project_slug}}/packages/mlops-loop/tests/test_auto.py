"""`train.model: auto`: a first model that suits the table."""

import numpy as np
import pandas as pd
import pytest

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import TrainParams, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Scored
from mlops_loop.scoring.bundle import OperatingPoint
from mlops_loop.scoring.skops_model import load, scores
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import session
from mlops_loop.training.cross_validation import compare, load_comparison
from mlops_loop.training.fit import fit

from .conftest import change, run_stages
from .made_up import made_up_contract

AUTO = TrainParams(model="auto")
NUMBERS = [f"n{place}" for place in range(12)]
TREES = ("small_trees", "gradient_boosting")


def contract(task: str = "binary-classification") -> Schema:
    columns = {name: {"type": "number"} for name in NUMBERS}
    columns |= {"sort": {"type": "category", "categories": list("abcdef")}}
    return made_up_contract(task, columns)


def table(rows: int, signal: float, seed: int = 0, crossed: bool = False) -> pd.DataFrame:
    """Rows with a target of 27 % yes; `crossed`: of a signal that no straight line has."""
    random = np.random.default_rng(seed)
    made = pd.DataFrame(random.normal(size=(rows, len(NUMBERS))), columns=NUMBERS)
    made["sort"] = random.choice(list("abcdef"), rows)
    tells = made["n0"] * made["n1"] if crossed else made["n0"]
    score = signal * tells + random.logistic(size=rows)
    made["target"] = np.where(score > np.quantile(score, 0.73), "yes", "no")
    return made


def test_few_rows_with_a_weak_signal_get_a_model_that_is_no_worse_than_a_constant() -> None:
    """Boosted trees without an end overfit them."""
    schema = contract()
    losses: dict[str, list[float]] = {"auto": [], "gradient_boosting": [], "constant": []}
    for seed in range(8):
        train, test = table(250, 0.7, seed), table(2000, 0.7, seed + 100)
        chosen = compare(train, schema, AUTO).chosen
        for name in losses:
            params = TrainParams(model=chosen if name == "auto" else name)
            found = scores(fit(train, schema, params), test, schema)
            truth = tasks.of(schema).truth(test, schema)
            losses[name].append(tasks.loss(Scored(truth, found, OperatingPoint(), schema)))
    means = {name: np.mean(values) for name, values in losses.items()}
    assert means["auto"] < means["constant"] < means["gradient_boosting"]


@pytest.mark.parametrize("task", ["binary-classification", "regression"])
def test_many_rows_that_no_straight_line_tells_get_trees(task) -> None:
    rows = table(4000, 3, crossed=True)
    if task == "regression":
        rows["target"] = rows["n0"] * rows["n1"]
    assert compare(rows, contract(task), AUTO).chosen in TREES


def test_equal_rows_give_an_equal_comparison_and_too_few_are_not_compared() -> None:
    rows = table(300, 1)
    found = compare(rows, contract(), AUTO)
    assert found == compare(rows, contract(), AUTO)
    assert found.rows == 300
    assert found.chosen == min(found.losses, key=found.losses.get)
    nothing = [compare(table(500, 0, seed), contract(), AUTO).chosen for seed in range(5)]
    assert nothing.count("constant") >= 3
    few = compare(rows.head(3), contract(), AUTO)
    assert (few.chosen, few.losses) == ("shrunk_logistic_regression", {})
    named = compare(rows, contract(), TrainParams(model="mine"))
    assert (named.chosen, named.losses) == ("mine", {})


def test_the_comparison_is_in_report_card_and_run(project, capsys) -> None:
    change(files.PARAMS, "train", model="auto")
    run_stages("train", "evaluate", "export")
    found, schema = load_comparison(), load_schema()
    assert found.metric == tasks.of(schema).OBJECTIVE
    said = capsys.readouterr().out
    card = (files.BUNDLE / "card.md").read_text("utf-8")
    assert "Choice of the estimator" in card
    for name in found.losses:
        assert name in said
        assert name in card.replace("\\", "")
    with session(load_settings()) as client:
        metrics = client.get_run(runs.record_training(client)).data.metrics
    logged = {name: metrics[f"cross_validation.{name}.{found.metric}"] for name in found.losses}
    assert logged == found.losses
    params = load_params().train.model_copy(update={"model": found.chosen})
    fitted = fit(tables.read_table(files.TRAIN), schema, params)
    test = tables.read_table(files.TEST)
    assert (scores(fitted, test, schema) == scores(load(files.MODEL), test, schema)).all()
    # An unknown name is one line.
    change(files.PARAMS, "train", model="autos")
    with pytest.raises(Failure, match=r"train\.model: autos does not fit the task: .* knows auto"):
        run_stages("train")
