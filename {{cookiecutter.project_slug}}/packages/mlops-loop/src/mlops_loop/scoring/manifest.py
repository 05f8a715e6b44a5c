"""Manifest: what bundle.json says of a model."""

from pydantic import BaseModel, JsonValue
from pydantic.dataclasses import dataclass

from mlops_loop.contract.values import Value


@dataclass(frozen=True)
class Estimator:
    """The estimator that was fitted, whatever params.yaml calls it."""

    name: str  # of its class
    params: dict[str, Value]


class Manifest(BaseModel, frozen=True):
    """The facts of bundle.json; a bundle of another version may lack some, and have others."""

    mlops_loop: str | None = None  # the version that made it
    name: str = ""
    task: str = ""
    target: str = ""
    positive: str | None = None
    classes: list[str] | None = None
    threshold: float | None = None
    half_width: float | None = None
    metrics: dict[str, int | float | None] = {}
    baseline: dict[str, int | float | None] = {}
    estimator: Estimator | None = None
    params: dict[str, dict[str, JsonValue]] = {}  # sections of params.yaml
    params_sha256: str = ""
    data_sha256: dict[str, str] = {}
    reports_sha256: dict[str, str] = {}
    code_sha256: dict[str, str] = {}
    code: dict[str, str | None] = {}  # fingerprints of the functions that a server runs
    inputs_sha256: dict[str, str] = {}
    example: dict[str, Value] = {}  # a row that the contract allows
    deciles: list[float] = []  # of the training sample's scores
    files: dict[str, str] = {}  # SHA-256 of each file
