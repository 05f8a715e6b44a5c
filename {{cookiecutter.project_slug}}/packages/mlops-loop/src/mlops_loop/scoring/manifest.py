"""Manifest: what bundle.json says of a model."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Manifest(BaseModel):
    """The facts of bundle.json; a bundle of another version may lack some, and have others.

    `manifest["key"]` raises KeyError for what the file does not hold.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    task: str = ""
    target: str = ""
    classes: list[str] | None = None
    threshold: float | None = None
    half_width: float | None = None
    metrics: dict[str, float | None] = {}
    baseline: dict[str, float | None] = {}
    example: dict[str, Any] = {}  # a row that the contract allows
    deciles: list[float] = []  # of the training sample's scores
    params: dict[str, Any] = {}
    params_sha256: str = ""
    data_sha256: dict[str, str] = {}
    reports_sha256: dict[str, str] = {}
    code_sha256: dict[str, str] = {}
    inputs_sha256: dict[str, str] = {}
    code: dict[str, str] = {}  # fingerprints of the functions that a server runs
    files: dict[str, str] = {}  # SHA-256 of each file

    def __contains__(self, key: str) -> bool:
        return key in self.model_fields_set

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return default
        return getattr(self, key)
