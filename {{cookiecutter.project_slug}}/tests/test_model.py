import numpy as np
import pytest
import skops.io

from {{ cookiecutter.__package_name }} import export, files, model, train
from {{ cookiecutter.__package_name }}.bundle import open_bundle
from {{ cookiecutter.__package_name }}.errors import Failure, Refusal
from {{ cookiecutter.__package_name }}.params import load_params
from {{ cookiecutter.__package_name }}.schema import load_schema
from {{ cookiecutter.__package_name }}.serve.scorer import Scorer
from {{ cookiecutter.__package_name }}.tasks import of

from .conftest import change


def test_equal_training_gives_equal_bytes(project) -> None:
    table, schema = files.read_table(files.TRAIN), load_schema()
    for name in ("a", "b"):
        fitted = train.fit(table, schema, load_params().train)
        model.save(fitted, project / f"{name}.skops")
        (project / f"{name}.onnx").write_bytes(export.to_onnx(fitted, schema))
    for kind in ("skops", "onnx"):
        assert files.sha256(project / f"a.{kind}") == files.sha256(project / f"b.{kind}")


@pytest.mark.parametrize("place", [0, 1])
def test_the_bundle_scores_as_the_model_does_gaps_and_unseen_categories_too(project, place) -> None:
    schema = load_schema()
    change(files.PARAMS, "train", model=list(of(schema).ESTIMATORS)[place])
    train.main()
    export.main()
    test = files.read_table(files.TEST)
    strange = test.assign(**dict.fromkeys(schema.categorical, "??"), **dict.fromkeys(schema.numeric, np.nan))
    fitted, scorer = model.load(files.MODEL), Scorer(open_bundle(files.BUNDLE))
    for table in (test, strange):
        assert export.difference(fitted, scorer, table, schema) < 1e-5


def test_thresholds_are_float32_and_no_prediction_changes_by_it(project) -> None:
    table, schema, params = files.read_table(files.TRAIN), load_schema(), load_params().train
    fitted = train.fit(table, schema, params)
    target = table[schema.target].to_numpy(dtype=object if schema.classes else float)
    exact = model.build(schema, params).fit(model.inputs(table, schema), target)
    for group in fitted[-1]._predictors:
        for tree in group:
            held = tree.nodes["num_threshold"]
            assert (held == held.astype("float32")).all()
    found = model.scores(fitted, table, schema)
    assert (found == model.scores(exact, table, schema)).all()


def test_an_unfaithful_export_is_refused(project) -> None:
    change(files.PARAMS, "export", parity=1e-20)
    before = files.sha256(files.BUNDLE / "bundle.json")
    with pytest.raises(Refusal, match="differs from the trained one"):
        export.main()
    assert files.sha256(files.BUNDLE / "bundle.json") == before


def test_unreviewed_types_and_unknown_parameters_are_refused(project) -> None:
    skops.io.dump(Scorer, "other.skops")
    with pytest.raises(Failure, match=r"review, then add to TRUSTED_TYPES in model\.py"):
        model.load(project / "other.skops")
    change(files.PARAMS, "train", "gradient_boosting", max_iters=20)
    with pytest.raises(Failure, match=r"see train in params\.yaml"):
        train.main()


def test_a_model_that_does_not_fit_the_task_is_refused(project) -> None:
    other = {"ridge", "logistic_regression"} - set(of(load_schema()).ESTIMATORS)
    change(files.PARAMS, "train", model=other.pop())
    with pytest.raises(Failure, match=r"train\.model: \w+ does not fit the task"):
        train.main()


def test_training_may_use_a_sample(project) -> None:
    rows = len(files.read_table(files.TRAIN)) // 2
    first, second = (files.read_sample(files.TRAIN, rows, seed) for seed in (0, 1))
    assert len(first) == len(second) == rows
    assert not first.equals(second)
    assert first.equals(files.read_sample(files.TRAIN, rows, 0))


def test_the_card_tells_of_test_rows_that_training_has_seen(project) -> None:
    path = files.REPORTS / "data/validation.json"
    report = files.read_json(path)
    (found,) = [check for check in report["checks"] if "training window" in check["rule"]]
    for failed, told in ((0, []), (found["rows"] // 2, ["also among the training rows"])):
        found["failed_rows"] = failed
        files.write_json(path, report)
        limits = export.overlap()
        assert len(limits) == len(told)
        assert all(words in limit for words, limit in zip(told, limits, strict=True))
