import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mlops_loop.base import files
from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import tables
from mlops_loop.scoring.bundle import OperatingPoint, open_bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns
from mlops_loop.training import behaviour

from .made_up import CLASSES, made_up_contract

COLUMNS = {
    "size": {"type": "number", "minimum": 0, "maximum": 10},
    "count": {"type": "integer", "minimum": 0, "maximum": 9},
    "colour": {"type": "category", "categories": ["red", "blue"]},
    "weight": {"type": "number", "nullable": True},
}
HALF = OperatingPoint()
CHANGE = "add: {size: 1}, tolerance: 0"
BAD = {  # what a test says besides its name, and what is said of it; of the contract below
    "invariance": [
        ("set: {colr: red}, tolerance: 0", "invariance.0: schema.yaml has no feature 'colr'"),
        ("set: {colour: pink}, tolerance: 0", "'pink' breaks the contract: colour is not one of"),
        ("set: {size: 11}, tolerance: 0", "11 breaks the contract: size is out of range"),
        ("set: {size: 2020-01-01}, tolerance: 0", "'2020-01-01' breaks the contract: size is not"),
        ("set: {size: [1]}, tolerance: 0", "size.str: Input should be a valid string"),
        (f"given: {{size: 11}}, {CHANGE}", "11 breaks the contract"),
        (f"where: {{size: {{minimum: 11}}}}, {CHANGE}", "no value of 'size' is in"),
        (f"where: {{colour: {{minimum: 1}}}}, {CHANGE}", "category, not a number"),
        (f"where: {{colour: [red, pink]}}, {CHANGE}", "'pink' breaks"),
        (f"where: {{size: {{above: 1}}}}, {CHANGE}", "Extra inputs"),
        ("add: {count: 0.5}, tolerance: 0", "'count' is an integer: 0.5 cannot"),
        ("tolerance: 0", "nothing is changed"),
        ("set: {size: 1}, add: {size: 1}, tolerance: 0", "'size' is both set and added to"),
        ("set: {size: 1}", "tolerance: Field required"),
    ],
    "directional": [
        ("set: {size: 1}, expect: rise, by: 0, of: maybe", "name the class whose probability"),
    ],
    "minimum": [
        ("", "say either which `label`"),
        ("label: 'yes', maximum: 0.5", "say either which `label`"),
        ("label: maybe", "'maybe' is none of the classes"),
    ],
}


def contract(task: str = "binary-classification") -> Schema:
    return made_up_contract(task, COLUMNS)


def table(rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    found = {"size": random.uniform(0, 10, rows), "count": random.integers(0, 10, rows)}
    found |= {"colour": random.choice(["red", "blue"], rows), "weight": random.uniform(0, 1, rows)}
    return pd.DataFrame(found).assign(weight=lambda t: t["weight"].where(t.index % 3 > 0))


def scores_of(yes: Any) -> np.ndarray:
    return np.column_stack([1 - yes, yes])


def bigger_is_yes(rows: pd.DataFrame) -> np.ndarray:
    """Scores of a model that looks at the size alone: from 0 to 1 for `yes`."""
    return scores_of(rows["size"].to_numpy(dtype=float) / 10)


def declare(**kinds: Any) -> None:
    files.BEHAVIOUR.write_text(yaml.safe_dump(kinds), encoding="utf-8")


def check(schema: Schema, predict: Any, point: OperatingPoint = HALF) -> pd.DataFrame:
    return behaviour.check(behaviour.load_behaviour(schema), table(), predict, schema, 1000, point)


def made(kind: str, predict: Any = bigger_is_yes, schema: Schema | None = None, **case: Any) -> Any:
    """The outcome of one test, declared in behaviour.yaml."""
    declare(**{kind: [{"name": "a", "why": "b", **case}]})
    schema = schema or contract()
    found = check(schema, predict)
    (result,) = behaviour.gate_results(found)
    assert (result.gate, result.passed) == ("behaviour: a", found["passed"][0])
    return found.iloc[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "text", "what"), [(kind, *case) for kind in BAD for case in BAD[kind]]
)
def test_a_mistake_is_one_line_with_file_line_and_key(kind, text, what, folder) -> None:
    case = "{" + f"name: a, why: b, {text}" + "}"
    files.BEHAVIOUR.write_text(f"{kind}:\n  - {case}\n", encoding="utf-8")
    with pytest.raises(Failure, match=re.escape(what)) as failure:
        behaviour.load_behaviour(contract())
    assert str(failure.value).startswith(f"behaviour.yaml, line 2: {kind}.0")
    assert "\n" not in str(failure.value)


def test_two_tests_of_one_name_and_a_class_left_out_are_refused(folder) -> None:
    case = {"name": "a", "why": "b", "set": {"size": 1}, "expect": "rise", "by": 0}
    for task, cases, what in (
        ("binary-classification", [case, case], "two tests are called 'a'"),
        ("multiclass-classification", [case], "name the class"),
        ("regression", [case | {"of": "yes"}], "no classes"),
    ):
        declare(directional=cases)
        with pytest.raises(Failure, match=what):
            behaviour.load_behaviour(contract(task))


def bent(rows: pd.DataFrame) -> np.ndarray:
    return scores_of(np.abs(rows["size"].to_numpy(dtype=float) - 2) / 10)


def value(rows: pd.DataFrame) -> np.ndarray:
    return rows[["size"]].to_numpy(dtype=float) * 10


def three(rows: pd.DataFrame) -> np.ndarray:
    yes = bigger_is_yes(rows)[:, 1]
    return np.column_stack([0.6 * (1 - yes), 0.4 * (1 - yes), yes])


BINARY = (bigger_is_yes,)
VALUES = (value, contract("regression"))
THREE = (three, contract("multiclass-classification"))
RISE, FALL = {"expect": "rise"}, {"expect": "fall"}
ONE, TWO, LARGE = {"add": {"size": 1}}, {"add": {"size": 2}}, {"where": {"size": {"minimum": 6}}}
NONE = {"expect": "fall", "of": "perhaps"}


@pytest.mark.parametrize(
    ("kind", "model", "asked", "passed"),
    [
        ("invariance", BINARY, {"set": {"colour": "red"}, "tolerance": 0}, True),
        ("invariance", BINARY, ONE | {"tolerance": 0.05}, False),
        ("invariance", BINARY, ONE | {"tolerance": 0.11}, True),
        ("invariance", BINARY, {"set": {"size": 0}, "tolerance": 0.5, "share": 0.4}, True),
        ("invariance", THREE, ONE | {"tolerance": 0.09}, False),
        ("directional", BINARY, TWO | RISE | {"by": 0.1}, True),
        ("directional", BINARY, TWO | RISE | {"by": 0.3}, False),
        ("directional", BINARY, TWO | FALL | {"of": "no", "by": 0.1}, True),
        ("directional", BINARY, TWO | RISE | {"by": 0, "share": 1}, True),
        ("directional", (bent,), ONE | RISE | {"by": 0}, True),  # on average
        ("directional", (bent,), ONE | RISE | {"by": 0, "share": 1}, False),
        ("directional", VALUES, ONE | RISE | {"by": 10 - 1e-9}, True),
        ("directional", THREE, ONE | NONE | {"by": 0.03}, True),
        ("directional", THREE, ONE | NONE | {"by": 0.05}, False),
        ("minimum", BINARY, LARGE | {"label": "yes"}, True),
        ("minimum", BINARY, LARGE | {"label": "no"}, False),
        ("minimum", BINARY, LARGE | {"minimum": 0.6, "maximum": 1}, True),
        ("minimum", BINARY, LARGE | {"of": "no", "minimum": 0.6}, False),
        ("minimum", VALUES, {"set": {"size": 5}, "minimum": 50, "maximum": 50}, True),
        ("minimum", THREE, {"set": {"size": 9}, "label": "yes"}, True),
    ],
)
def test_each_kind_passes_and_is_refused(kind, model, asked, passed, folder) -> None:
    assert made(kind, *model, **asked)["passed"] == passed


def test_a_label_is_what_the_bundle_would_call_it(folder) -> None:
    declare(minimum=[{"name": "a", "why": "b", "set": {"size": 4}, "label": "yes"}])
    for threshold, passed in ((0.3, True), (0.5, False)):
        found = check(contract(), bigger_is_yes, OperatingPoint(threshold=threshold))
        assert found["passed"][0] == passed


def test_conditions_choose_rows_that_the_contract_allows(folder) -> None:
    every, asked = table(), {"set": {"count": 1}, "tolerance": 0}
    for where, rows in (
        ({"colour": "red"}, every["colour"] == "red"),
        ({"colour": ["red", "blue"], "count": [1, 2]}, every["count"].isin([1, 2])),
        ({"size": {"minimum": 2, "maximum": 3}}, every["size"].between(2, 3)),
        ({"weight": None}, every["weight"].isna()),
        ({"weight": {"maximum": 0.5}}, every["weight"] <= 0.5),
    ):
        assert made("invariance", where=where, **asked)["rows"] == rows.sum()
    none = made("invariance", where={"size": {"minimum": 9.9999}}, **asked)
    assert (none["rows"], none["passed"]) == (0, None)
    assert np.isnan(none["value"])
    assert made("invariance", **ONE, tolerance=0)["rows"] == (every["size"] <= 9).sum()


@pytest.mark.parametrize("task", CLASSES)
def test_a_file_without_tests_is_no_objection_and_its_example_fits(task, folder) -> None:
    schema = contract(task)
    text = behaviour.without_tests(schema)
    files.BEHAVIOUR.write_text(text, encoding="utf-8")
    assert behaviour.load_behaviour(schema).cases == []
    (verdict,) = behaviour.gate_results(check(schema, bigger_is_yes))
    assert verdict.passed is None
    commented = text.partition("# invariance:\n")[2].split("invariance: []")[0]
    example = "invariance:\n" + re.sub("(?m)^# ", "", commented)
    files.BEHAVIOUR.write_text(example, encoding="utf-8")
    assert len(behaviour.load_behaviour(schema).cases) == 3


def test_the_project_s_own_model_passes_and_one_that_learned_nothing_does_not(project) -> None:
    schema, test = load_schema(), tables.read_table(files.TEST)
    declared, bundle = behaviour.load_behaviour(schema), open_bundle(files.BUNDLE)
    scorer = open_scorer(bundle)

    def refused(factor: int) -> set[str]:
        found = behaviour.check(
            declared,
            test,
            lambda rows: scorer.scores(columns(rows, schema)) * factor,
            schema,
            500,
            bundle.operating_point,
        )
        return set(found["test"][found["passed"] == False])  # noqa: E712 (None is neither)

    assert refused(1) == set()
    assert {case.name for case in declared.directional if case.by > 0} <= refused(0)
