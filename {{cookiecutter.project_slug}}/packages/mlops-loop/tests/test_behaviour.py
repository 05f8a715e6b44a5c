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
from mlops_loop.training.behaviour import check, declaration, examples

from .made_up import CLASSES, made_up_contract

COLUMNS = {
    "size": {"type": "number", "minimum": 0, "maximum": 10},
    "count": {"type": "integer", "minimum": 0, "maximum": 9},
    "colour": {"type": "category", "categories": ["red", "blue"]},
    "weight": {"type": "number", "nullable": True},
}
BAD = {  # what a test says besides its name, and what is said of it; of the contract below
    "invariance": [
        ("set: {colr: red}, tolerance: 0", "invariance.0: schema.yaml has no feature 'colr'"),
        ("set: {target: 'no'}, tolerance: 0", "no feature 'target'"),
        ("set: {colour: pink}, tolerance: 0", "'pink' breaks the contract: colour is not one of"),
        ("set: {size: 11}, tolerance: 0", "11 breaks the contract: size is out of range"),
        ("set: {size: null}, tolerance: 0", "None breaks the contract: size is missing"),
        ("set: {size: 2020-01-01}, tolerance: 0", "'2020-01-01' breaks the contract: size is not"),
        ("set: {size: [1]}, tolerance: 0", "size: give a number, a text, true, false or null"),
        ("where: {size: {minimum: 11}}, add: {size: 1}, tolerance: 0", "no value of 'size' is in"),
        ("where: {colour: {minimum: 1}}, add: {size: 1}, tolerance: 0", "category, not a number"),
        ("where: {colour: [red, pink]}, add: {size: 1}, tolerance: 0", "'pink' breaks"),
        ("where: {size: {above: 1}}, add: {size: 1}, tolerance: 0", "Extra inputs"),
        ("add: {colour: 1}, tolerance: 0", "'colour' is of type category, not a number"),
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
        ("row: {size: 1}, label: 'yes'", "required input 'count' is missing"),
        ("row: {size: 1, colour: red, count: 1}, set: {size: 1}, label: 'yes'", "a row of its own"),
    ],
}


def contract(task: str = "binary-classification") -> Schema:
    return made_up_contract(task, COLUMNS)


def table(rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    found = {"size": random.uniform(0, 10, rows), "count": random.integers(0, 10, rows)}
    found |= {"colour": random.choice(["red", "blue"], rows), "weight": random.uniform(0, 1, rows)}
    return pd.DataFrame(found).assign(weight=lambda t: t["weight"].where(t.index % 3 > 0))


def bigger_is_yes(rows: pd.DataFrame) -> np.ndarray:
    """Scores of a model that looks at the size alone: from 0 to 1 for `yes`."""
    yes = rows["size"].to_numpy(dtype=float) / 10
    return np.column_stack([1 - yes, yes])


def declare(**kinds: Any) -> None:
    files.BEHAVIOUR.write_text(yaml.safe_dump(kinds), encoding="utf-8")


def made(kind: str, predict: Any = bigger_is_yes, schema: Schema | None = None, **case: Any) -> Any:
    """The outcome of one test, declared in behaviour.yaml."""
    declare(**{kind: [{"name": "a", "why": "b", **case}]})
    schema = schema or contract()
    found = check.check(declaration.load_behaviour(schema), table(), predict, schema)
    (result,) = check.gate_results(found)
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
    with pytest.raises(Failure) as failure:
        declaration.load_behaviour(contract())
    assert str(failure.value).startswith(f"behaviour.yaml, line 2: {kind}.0")
    assert what in str(failure.value)
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
            declaration.load_behaviour(contract(task))


def test_what_must_not_matter_does_not(folder) -> None:
    assert made("invariance", set={"colour": "red"}, tolerance=0)["passed"]
    found = made("invariance", add={"size": 1}, tolerance=0.05)
    assert (found["passed"], found["value"]) == (False, 0)
    assert found["rows"] == (table()["size"] <= 9).sum()  # the contract ends at 10
    assert made("invariance", add={"size": 1}, tolerance=0.11)["passed"]
    half = table()["size"].between(0, 5)
    found = made("invariance", set={"size": 0}, tolerance=0.5, share=0.4)
    assert (found["passed"], found["value"]) == (True, half.mean())


def test_what_must_matter_does_and_in_the_right_direction(folder) -> None:
    def bent(rows: pd.DataFrame) -> np.ndarray:
        yes = np.abs(rows["size"].to_numpy(dtype=float) - 2) / 10
        return np.column_stack([1 - yes, yes])

    for asked, passed in (
        ({"expect": "rise", "by": 0.1}, True),
        ({"expect": "rise", "by": 0.3}, False),
        ({"expect": "fall", "by": 0}, False),
        ({"expect": "fall", "of": "no", "by": 0.1}, True),
        ({"expect": "rise", "by": 0, "share": 1}, True),
    ):
        assert made("directional", add={"size": 2}, **asked)["passed"] == passed
    asked = {"add": {"size": 1}, "expect": "rise", "by": 0}
    assert made("directional", bent, **asked)["passed"]  # on average
    found = made("directional", bent, **asked, share=1)
    assert not found["passed"]
    assert 0.7 < found["value"] < 1


def test_cases_that_any_model_must_get_right(folder) -> None:
    large = {"where": {"size": {"minimum": 6}}}
    row = {"size": 1, "count": 1, "colour": "red"}
    for asked, passed in (
        (large | {"label": "yes"}, True),
        (large | {"label": "no"}, False),
        (large | {"minimum": 0.6, "maximum": 1}, True),
        (large | {"of": "no", "minimum": 0.6}, False),
        ({"set": {"size": 1}, "label": "no"}, True),
        ({"row": row, "maximum": 0.1}, True),
        ({"row": row | {"size": 2}, "maximum": 0.1}, False),
    ):
        assert made("minimum", **asked)["passed"] == passed, asked


def test_a_label_is_what_the_bundle_would_call_it(folder) -> None:
    declare(minimum=[{"name": "a", "why": "b", "set": {"size": 4}, "label": "yes"}])
    declared = declaration.load_behaviour(contract())
    for threshold, passed in ((0.3, True), (0.5, False)):
        point = OperatingPoint(threshold=threshold)
        found = check.check(declared, table(), bigger_is_yes, contract(), operating_point=point)
        assert found["passed"][0] == passed


def test_conditions_choose_rows(folder) -> None:
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


def test_values_and_several_classes(folder) -> None:
    def value(rows: pd.DataFrame) -> np.ndarray:
        return rows[["size"]].to_numpy(dtype=float) * 10

    def three(rows: pd.DataFrame) -> np.ndarray:
        yes = bigger_is_yes(rows)[:, 1]
        return np.column_stack([0.6 * (1 - yes), 0.4 * (1 - yes), yes])

    of_values, of_classes = (
        (value, contract("regression")),
        (three, contract("multiclass-classification")),
    )
    add = {"add": {"size": 1}}
    fall = add | {"expect": "fall", "of": "perhaps"}
    for kind, model, asked, passed in (
        ("directional", of_values, add | {"expect": "rise", "by": 10 - 1e-9}, True),
        ("directional", of_values, add | {"expect": "rise", "by": 11}, False),
        ("minimum", of_values, {"set": {"size": 5}, "minimum": 50, "maximum": 50}, True),
        ("directional", of_classes, fall | {"by": 0.03}, True),
        ("directional", of_classes, fall | {"by": 0.05}, False),
        ("minimum", of_classes, {"set": {"size": 9}, "label": "yes"}, True),
        ("minimum", of_classes, {"set": {"size": 1}, "label": "yes"}, False),
        ("invariance", of_classes, add | {"tolerance": 0.09}, False),
    ):
        assert made(kind, *model, **asked)["passed"] == passed, asked


@pytest.mark.parametrize("task", CLASSES)
def test_a_file_without_tests_is_no_objection_and_its_example_fits(task, folder) -> None:
    schema = contract(task)
    text = examples.without_tests(schema)
    files.BEHAVIOUR.write_text(text, encoding="utf-8")
    declared = declaration.load_behaviour(schema)
    assert declared.cases == []
    (verdict,) = check.gate_results(check.check(declared, table(), bigger_is_yes, schema))
    assert verdict.passed is None
    commented = text.partition("# invariance:\n")[2].split("invariance: []")[0]
    example = "invariance:\n" + re.sub("(?m)^# ", "", commented)
    files.BEHAVIOUR.write_text(example, encoding="utf-8")
    assert len(declaration.load_behaviour(schema).cases) == 3


def test_the_project_s_own_model_passes_and_one_that_learned_nothing_does_not(project) -> None:
    schema, test = load_schema(), tables.read_table(files.TEST)
    declared, bundle = declaration.load_behaviour(schema), open_bundle(files.BUNDLE)
    scorer = open_scorer(bundle)

    def refused(factor: int) -> set[str]:
        found = check.check(
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
