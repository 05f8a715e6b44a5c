import numpy as np
import pytest
import skops.io

from {{ cookiecutter.__package_name }} import export, files, model, train
from {{ cookiecutter.__package_name }}.bundle import open_bundle
from {{ cookiecutter.__package_name }}.errors import Failure, Refusal
from {{ cookiecutter.__package_name }}.params import load_params
from {{ cookiecutter.__package_name }}.schema import load_schema
from {{ cookiecutter.__package_name }}.serve.scorer import Scorer

from .conftest import edit


def test_equal_training_gives_equal_bytes(project) -> None:
    table, schema = files.read_table(files.TRAIN), load_schema()
    for name in ("a", "b"):
        fitted = train.fit(table, schema, load_params().train)
        model.save(fitted, project / f"{name}.skops")
        (project / f"{name}.onnx").write_bytes(export.to_onnx(fitted, schema))
    for kind in ("skops", "onnx"):
        assert files.sha256(project / f"a.{kind}") == files.sha256(project / f"b.{kind}")


@pytest.mark.parametrize("name", ["gradient_boosting", "logistic_regression"])
def test_the_bundle_scores_as_the_model_does_gaps_and_unseen_categories_too(project, name) -> None:
    edit(files.PARAMS, "model: gradient_boosting", f"model: {name}")
    train.main()
    export.main()
    test = files.read_table(files.TEST).assign(carrier="??", temperature=np.nan)
    exported = Scorer(open_bundle(files.BUNDLE)).probabilities(export.columns(test, load_schema()))
    trained = model.load(files.MODEL).predict_proba(model.inputs(test, load_schema()))
    assert np.abs(exported - trained).max() < 1e-5


def test_an_unfaithful_export_is_refused(project) -> None:
    edit(files.PARAMS, "parity: 1.0e-5", "parity: 1.0e-20")
    before = files.sha256(files.BUNDLE / "bundle.json")
    with pytest.raises(Refusal, match="differs from the trained one"):
        export.main()
    assert files.sha256(files.BUNDLE / "bundle.json") == before


def test_unreviewed_types_and_unknown_parameters_are_refused(project) -> None:
    skops.io.dump(Scorer, "other.skops")
    with pytest.raises(Failure, match=r"review, then add to TRUSTED_TYPES in model\.py"):
        model.load(project / "other.skops")
    edit(files.PARAMS, "max_iter: 20", "max_iters: 20")
    with pytest.raises(Failure, match=r"see train in params\.yaml"):
        train.main()
