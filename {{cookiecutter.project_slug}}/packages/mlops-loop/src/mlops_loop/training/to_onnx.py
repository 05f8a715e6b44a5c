"""The fitted pipeline as an ONNX graph; each library brings what converts its estimators."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sklearn.base import BaseEstimator, is_classifier
from sklearn.pipeline import Pipeline

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema

if TYPE_CHECKING:
    from skl2onnx.common._container import ModelComponentContainer
    from skl2onnx.common._topology import Operator, Scope, Variable

Converter = Callable[["Scope", "Operator", "ModelComponentContainer"], None]
LIBRARIES = ("catboost", "lightgbm", "xgboost")
OPSETS = {"": 15, "ai.onnx.ml": 3}  # the newest that all of these write


def to_onnx(model: Pipeline, schema: Schema) -> bytes:
    """Return the fitted pipeline as an ONNX graph with one input for each feature, in their order.

    The converter replaces what is not a letter or digit in their names; the order stays.
    """
    from skl2onnx import convert_sklearn  # here, because `promote` does without
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    text = StringTensorType([None, 1])
    number = FloatTensorType([None, 1])
    types = [(name, text if name in schema.categorical else number) for name in schema.features]
    options = {"zipmap": False} if schema.classes else None  # probabilities as a table
    try:
        opsets = OPSETS if register(model[-1]) else None
        graph = convert_sklearn(model, schema.name, types, options=options, target_opset=opsets)
    except Exception as error:  # the converter raises many kinds
        reason = str(error).strip().partition("\n")[0]
        name = type(model[-1]).__name__
        instead = "set `export.format: skops` in params.yaml to serve it through scikit-learn"
        raise Failure(f"the pipeline of {name} cannot become ONNX; {instead} ({reason})") from None
    # The converter lists them in the order of a set, which differs from process to process.
    imports = sorted(graph.opset_import, key=lambda opset: str(opset.domain))
    del graph.opset_import[:]
    graph.opset_import.extend(imports)
    exported: bytes = graph.SerializeToString(deterministic=True)
    return exported


def register(estimator: BaseEstimator) -> bool:
    """Make the converter of an estimator's own library known; False if it needs none."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator

    library = type(estimator).__module__.partition(".")[0]
    if library not in LIBRARIES:
        return False
    classes = is_classifier(estimator)
    kind = "classifier" if classes else "regressor"
    alias = f"{library}_{kind}"
    update_registered_converter(
        type(estimator),
        alias,
        getattr(shape_calculator, f"calculate_linear_{kind}_output_shapes"),
        converter(library),
        parser=partial(declare_classifier, alias) if classes else None,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classes else None,
    )
    return True


def declare_classifier(
    alias: str,
    scope: "Scope",
    model: BaseEstimator,
    inputs: "list[Variable]",
    custom_parsers: None = None,  # noqa: ARG001 (the converter passes it)
) -> "list[Variable]":
    """Declare label and probabilities as outputs: not every library's classes tell of them."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    operator = scope.declare_local_operator(alias, model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable("label", Int64TensorType()))
    operator.outputs.append(scope.declare_local_variable("probabilities", FloatTensorType()))
    outputs: list[Variable] = operator.outputs
    return outputs


def converter(library: str) -> Converter:
    found: Converter
    if library == "catboost":
        from mlops_loop.training.catboost_onnx import convert_catboost

        found = convert_catboost
    elif library == "lightgbm":
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        found = convert_lightgbm
    else:
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

        found = convert_xgboost
    return found
