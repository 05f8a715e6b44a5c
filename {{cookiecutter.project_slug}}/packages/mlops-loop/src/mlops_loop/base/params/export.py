"""`export` in params.yaml: the format of the bundle's model."""

from typing import Literal

from pydantic import Field

from mlops_loop.base.params.section import Section


class ExportParams(Section):
    format: Literal["onnx", "skops"] = "onnx"
    reference_rows: int = Field(default=10_000, ge=500)
