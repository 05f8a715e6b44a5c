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
from mlops_loop.scoring import skops_model as model
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns
from mlops_loop.training.behaviour import check, declaration, examples

from .conftest import change

BAD = {  # what a test says besides its name, and what is said of it; of the contract below
    "invariance": [
        ("set: {colr: red}, tolerance: 0", "invariance.0.set: schema.yaml has no feature 'colr'"),
        ("set: {y: 'no'}, tolerance: 0", "no feature 'y'"),
        ("set: {colour: pink}, tolerance: 0", "'pink' breaks the contract: colour is not one of"),
        ("set: {size: 11}, tolerance: 0", "11 breaks the contract: size is out of range"),
        ("set: {size: far}, tolerance: 0", "'far' breaks the contract: size is not of type"),
        ("set: {size: null}, tolerance: 0", "None breaks the contract: size is missing"),
        (
            "set: {size: 2020-01-01}, tolerance: 0",
            "invariance.0.set: '2020-01-01' breaks the contract: size is not of type number",
        ),
        ("set: {size: [1]}, tolerance: 0", "size: give a number, a text, true, false or null"),
        ("where: {size: {minimum: 11}}, add: {size: 1}, tolerance: 0", "no value of 'size' is in"),
        (
            "where: {colour: {minimum: 1}}, add: {size: 1}, tolerance: 0",
            "of type category, not a number",
        ),
        ("where: {colour: [red, pink]}, add: {size: 1}, tolerance: 0", "'pink' breaks"),
        ("where: {colour: [[red]]}, add: {size: 1}, tolerance: 0", "list.0: give a number"),
        ("where: {size: {above: 1}}, add: {size: 1}, tolerance: 0", "Extra inputs"),
        ("add: {colour: 1}, tolerance: 0", "'colour' is of type category, not a number"),
        ("add: {count: 0.5}, tolerance: 0", "'count' is an integer: 0.5 cannot"),
        ("tolerance: 0", "nothing is changed"),
        ("set: {size: 1}, add: {size: 1}, tolerance: 0", "'size' is both set and added to"),
        ("set: {size: 1}", "tolerance: Field required"),
        ("set: {size: 1}, tolerance: 0, share: 2", "share: Input should be less"),
        ("set: {size: 1}, tolerance: -1", "tolerance: Input should be greater"),
    ],
    "directional": [
        ("set: {size: 1}, expect: grow, by: 0", "expect: Input should be 'rise' or"),
        ("set: {size: 1}, expect: rise, by: 0, of: maybe", "name the class whose probability"),
    ],
    "minimum": [
        ("", "say either which `label`"),
        ("label: 'yes', maximum: 0.5", "say either which `label`"),
        ("label: maybe", "'maybe' is none of the classes"),
        ("row: {size: 1}, label: 'yes'", "required input 'colour' is missing"),
        ("row: {size: 1, colour: red, count: 1}, set: {size: 1}, label: 'yes'", "a row of its own"),
    ],
}


def contract(task: str = "binary-classification") -> Schema:
    """A contract of four columns, with `y` as the target."""
    target: dict[str, Any] = {
        "binary-classification": {"type": "category", "categories": ["no", "yes"]},
        "multiclass-classification": {"type": "category", "categories": ["no", "perhaps", "yes"]},
        "regression": {"type": "number", "minimum": 0, "maximum": 100},
    }[task]
    raw = {
        "name": "things",
        "task": task,
        "target": "y",
        "columns": {
            "size": {"type": "number", "minimum": 0, "maximum": 10},
            "count": {"type": "integer", "minimum": 0, "maximum": 9},
            "colour": {"type": "category", "categories": ["red", "blue"]},
            "weight": {"type": "number", "nullable": True},
            "y": {**target, "role": "target"},
        },
    }
    return Schema.model_validate(raw | ({"positive": "yes"} if task.startswith("binary") else {}))


def table(rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    found = {"size": random.uniform(0, 10, rows), "count": random.integers(0, 10, rows)}
    found |= {"colour": random.choice(["red", "blue"], rows), "weight": random.uniform(0, 1, rows)}
    return pd.DataFrame(found).assign(weight=lambda t: t["weight"].where(t.index % 3 > 0))


def bigger_is_yes(rows: pd.DataFrame) -> np.ndarray:
    """Scores of a model that looks at the size alone: from 0 to 1 for `yes`."""
    yes = rows["size"].to_numpy(dtype=float) / 10
    return np.column_stack([1 - yes, yes])


def made(kind: str, predict: Any = bigger_is_yes, schema: Schema | None = None, **case: Any) -> Any:
    """The outcome of one test, declared in behaviour.yaml."""
    declared = {kind: [{"name": "a", "why": "b", **case}]}
    files.BEHAVIOUR.write_text(yaml.safe_dump(declared), encoding="utf-8")
    schema = schema or contract()
    found = check.check(declaration.load_behaviour(schema), table(), predict, schema)
    (result,) = check.gate_results(found)
    assert (result.gate, result.passed) == ("behaviour: a", found[0].passed)
    return check.as_table(found).iloc[0]


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
    files.BEHAVIOUR.write_text(yaml.safe_dump({"directional": [case, case]}), encoding="utf-8")
    with pytest.raises(Failure, match="two tests are called 'a'"):
        declaration.load_behaviour(contract())
    for task, what in (
        ("multiclass-classification", "name the class"),
        ("regression", "no classes"),
    ):
        given = case | ({"of": "yes"} if task == "regression" else {})
        files.BEHAVIOUR.write_text(yaml.safe_dump({"directional": [given]}), encoding="utf-8")
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
    found = made("directional", add={"size": 2}, expect="rise", by=0.1)
    assert (found["passed"], found["value"]) == (True, pytest.approx(0.2))
    assert not made("directional", add={"size": 2}, expect="rise", by=0.3)["passed"]
    assert not made("directional", add={"size": 2}, expect="fall", by=0)["passed"]
    assert made("directional", add={"size": 2}, expect="fall", of="no", by=0.1)["passed"]


def test_a_model_that_is_not_monotone_is_refused(folder) -> None:
    def bent(rows: pd.DataFrame) -> np.ndarray:
        yes = np.abs(rows["size"].to_numpy(dtype=float) - 2) / 10
        return np.column_stack([1 - yes, yes])

    asked = {"add": {"size": 1}, "expect": "rise", "by": 0, "share": 1}
    assert made("directional", **asked)["passed"]
    found = made("directional", bent, **asked)
    assert not found["passed"]
    assert 0.7 < found["value"] < 1
    assert made("directional", bent, **{key: asked[key] for key in asked if key != "share"})[
        "passed"
    ]


def test_cases_that_any_model_must_get_right(folder) -> None:
    large = {"where": {"size": {"minimum": 6}}}
    assert made("minimum", **large, label="yes")["passed"]
    assert not made("minimum", **large, label="no")["passed"]
    assert made("minimum", **large, minimum=0.6, maximum=1)["passed"]
    assert not made("minimum", **large, of="no", minimum=0.6)["passed"]
    assert made("minimum", set={"size": 1}, label="no")["passed"]
    row = {"size": 1, "count": 1, "colour": "red"}
    found = made("minimum", row=row, maximum=0.1)
    assert (found["passed"], found["rows"]) == (True, 1)
    assert not made("minimum", row=row | {"size": 2}, maximum=0.1)["passed"]


def test_a_label_is_what_the_bundle_would_call_it(folder) -> None:
    text = "minimum: [{name: a, why: b, set: {size: 4}, label: 'yes'}]"
    files.BEHAVIOUR.write_text(text, encoding="utf-8")
    declared = declaration.load_behaviour(contract())
    for threshold, passed in ((0.3, True), (0.5, False)):
        point = OperatingPoint(threshold=threshold)
        found = check.check(declared, table(), bigger_is_yes, contract(), operating_point=point)
        assert found[0].passed == passed


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

    several, number = contract("multiclass-classification"), contract("regression")
    assert made("directional", value, number, add={"size": 1}, expect="rise", by=10 - 1e-9)[
        "passed"
    ]
    assert not made("directional", value, number, add={"size": 1}, expect="rise", by=11)["passed"]
    assert made("minimum", value, number, set={"size": 5}, minimum=50, maximum=50)["passed"]
    asked: Any = {"add": {"size": 1}, "expect": "fall", "of": "perhaps"}
    assert made("directional", three, several, **asked, by=0.03)["passed"]
    assert not made("directional", three, several, **asked, by=0.05)["passed"]
    assert made("minimum", three, several, set={"size": 9}, label="yes")["passed"]
    assert not made("minimum", three, several, set={"size": 1}, label="yes")["passed"]
    assert not made("invariance", three, several, add={"size": 1}, tolerance=0.09)["passed"]


@pytest.mark.parametrize(
    "task", ["binary-classification", "multiclass-classification", "regression"]
)
def test_a_file_without_tests_is_no_objection_and_its_example_fits(task, folder) -> None:
    schema = contract(task)
    text = examples.without_tests(schema)
    files.BEHAVIOUR.write_text(text, encoding="utf-8")
    declared = declaration.load_behaviour(schema)
    assert declared.cases == []
    (verdict,) = check.gate_results(check.check(declared, table(), bigger_is_yes, schema))
    assert verdict.passed is None
    commented = text.partition("# invariance:\n")[2].split("invariance: []")[0]
    example = "invariance:\n" + commented.replace("# ", "", 1).replace("\n# ", "\n")
    files.BEHAVIOUR.write_text(example, encoding="utf-8")
    assert len(declaration.load_behaviour(schema).cases) == 3


def test_the_project_s_own_model_passes_and_one_that_learned_nothing_does_not(project) -> None:
    schema, test = load_schema(), tables.read_table(files.TEST)
    declared, bundle = declaration.load_behaviour(schema), open_bundle(files.BUNDLE)
    scorer, trained = open_scorer(bundle), model.load(files.MODEL)

    def exported(rows: pd.DataFrame) -> np.ndarray:
        return scorer.scores(columns(rows, schema))

    found = check.check(declared, test, exported, schema, 500, bundle.operating_point)
    assert [verdict for verdict in check.gate_results(found) if verdict.passed is False] == []
    again = check.check(
        declared,
        test,
        lambda rows: model.scores(trained, rows, schema),
        schema,
        500,
        bundle.operating_point,
    )
    assert [line.value for line in found] == [pytest.approx(line.value, abs=0.01) for line in again]
    if declared.directional:
        found = check.check(
            declared,
            test,
            lambda rows: exported(rows) * 0,
            schema,
            500,
            bundle.operating_point,
        )
        refused = {verdict.gate for verdict in check.gate_results(found) if verdict.passed is False}
        assert {
            f"behaviour: {case.name}" for case in declared.directional if case.by > 0
        } <= refused


def test_a_column_that_is_gone_is_told(project) -> None:
    schema = load_schema()
    gone = next(
        (
            name
            for case in declaration.load_behaviour(schema).invariance
            for name in case.add
            if not schema.columns[name].derived
        ),
        None,
    )
    if gone:
        change(files.SCHEMA, "columns", gone, role="ignored")
        with pytest.raises(Failure, match=re.escape(f"schema.yaml has no feature '{gone}'")):
            declaration.load_behaviour(load_schema())
