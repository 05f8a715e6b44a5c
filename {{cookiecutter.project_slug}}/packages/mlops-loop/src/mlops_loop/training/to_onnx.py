"""The fitted pipeline as an ONNX graph; each library brings what converts its estimators."""

from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from sklearn.base import BaseEstimator, is_classifier
from sklearn.pipeline import Pipeline

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Schema

if TYPE_CHECKING:
    from skl2onnx.common._container import ModelComponentContainer
    from skl2onnx.common._topology import Operator, Scope, Variable

ONNXMLTOOLS = "onnxmltools.convert"
CONVERTERS = {
    "catboost": f"{__name__}:convert_catboost",
    "lightgbm": f"{ONNXMLTOOLS}.lightgbm.operator_converters.LightGbm:convert_lightgbm",
    "xgboost": f"{ONNXMLTOOLS}.xgboost.operator_converters.XGBoost:convert_xgboost",
}
OPSETS = {"": 15, "ai.onnx.ml": 3}  # the newest that all of these write


def to_onnx(model: Pipeline, schema: Schema) -> bytes:
    """Return the fitted pipeline as an ONNX graph with one input for each feature, in their order.

    The converter replaces what is not a letter or digit in their names; the order stays.
    """
    from skl2onnx import convert_sklearn  # here, because `promote` does without
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    types = [
        (name, (StringTensorType if name in schema.categorical else FloatTensorType)([None, 1]))
        for name in schema.features
    ]
    options = {"zipmap": False} if schema.classes else None  # probabilities as a table
    library = type(model[-1]).__module__.partition(".")[0]
    try:
        if library in CONVERTERS:
            register(model[-1], library)
        opsets = OPSETS if library in CONVERTERS else None
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
    return bytes(graph.SerializeToString(deterministic=True))


def register(estimator: BaseEstimator, library: str) -> None:
    """Make the converter of an estimator's own library known."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator

    kind = "classifier" if is_classifier(estimator) else "regressor"
    alias = f"{library}_{kind}"
    of_classes = {
        "parser": partial(declare_classifier, alias),
        "options": {"nocl": [True, False], "zipmap": [True, False, "columns"]},
    }
    update_registered_converter(
        type(estimator),
        alias,
        getattr(shape_calculator, f"calculate_linear_{kind}_output_shapes"),
        resolve_name(CONVERTERS[library]),
        **(of_classes if is_classifier(estimator) else {}),
    )


def declare_classifier(
    alias: str, scope: "Scope", model: BaseEstimator, inputs: "list[Variable]", **_: None
) -> "list[Variable]":
    """Declare label and probabilities as outputs: not every library's classes tell of them."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    operator = scope.declare_local_operator(alias, model)
    operator.inputs = inputs
    outputs = {"label": Int64TensorType(), "probabilities": FloatTensorType()}
    for name, kind in outputs.items():
        operator.outputs.append(scope.declare_local_variable(name, kind))
    return list(operator.outputs)


def convert_catboost(
    scope: "Scope", operator: "Operator", container: "ModelComponentContainer"
) -> None:
    """Add the trees as CatBoost writes them: one node, between the pipeline's names."""
    from catboost.utils import convert_to_onnx_object
    from onnx import helper

    exported = convert_to_onnx_object(operator.raw_operator)
    node = next(node for node in exported.graph.node if node.op_type.startswith("TreeEnsemble"))
    container.add_node(
        node.op_type,
        [operator.inputs[0].full_name],
        [output.full_name for output in operator.outputs],
        op_domain="ai.onnx.ml",
        op_version=1,
        name=scope.get_unique_operator_name(node.op_type),
        **{found.name: helper.get_attribute_value(found) for found in node.attribute},
    )
