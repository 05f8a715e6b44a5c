"""From data to a model that is gated, served, monitored and retrained.

README.md says where to begin. What `project.py`, `model.py`, `features.py` and `ingest.py` may
import is in `__all__`; all else is internal.
"""

import os
from importlib import import_module
from typing import Any

# No library reports on its use. They read this when they are imported, so it is set before that.
os.environ.setdefault("DO_NOT_TRACK", "true")  # Evidently
os.environ.setdefault("DVC_NO_ANALYTICS", "true")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "true")  # ONNX Runtime, on by default since 1.29

HOMES = {
    "Candidate": "release.candidate",
    "Column": "contract.schema",
    "Failure": "base.errors",
    "GateResult": "metrics.gate_result",
    "IngestParams": "base.params",
    "Project": "base.project",
    "Refusal": "base.errors",
    "Schema": "contract.schema",
    "TrainParams": "base.params",
    "batches": "data.source.read",
    "check_limit": "metrics.gate_result",
    "run": "cli.app",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    """Import what is public when it is asked for: a server has no pandas."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
