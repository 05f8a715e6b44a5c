"""CatBoost's own ONNX export, as a part of the pipeline's graph."""

from catboost.utils import convert_to_onnx_object
from onnx import helper
from skl2onnx.common._container import ModelComponentContainer
from skl2onnx.common._topology import Operator, Scope


def convert_catboost(scope: Scope, operator: Operator, container: ModelComponentContainer) -> None:
    """Add the trees as CatBoost writes them: one node, between the pipeline's names."""
    exported = convert_to_onnx_object(operator.raw_operator)
    node = next(node for node in exported.graph.node if node.op_type.startswith("TreeEnsemble"))
    attributes = {found.name: helper.get_attribute_value(found) for found in node.attribute}
    container.add_node(
        node.op_type,
        [operator.inputs[0].full_name],
        [output.full_name for output in operator.outputs],
        op_domain="ai.onnx.ml",
        op_version=1,
        name=scope.get_unique_operator_name(node.op_type),
        **attributes,
    )
