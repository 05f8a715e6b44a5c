"""MLflow model: save the pipeline as `mlflow models serve` takes it."""

import sys

import mlflow
from fitted import FACTS, load
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

kinds = dict.fromkeys(FACTS["numbers"], "float") | dict.fromkeys(FACTS["categories"], "string")
columns = [
    ColSpec(kinds[name], name, required=name in FACTS["categories"]) for name in FACTS["columns"]
]
mlflow.sklearn.save_model(
    load(),
    sys.argv[1],
    signature=ModelSignature(Schema(columns)),
    serialization_format="skops",
    skops_trusted_types=FACTS["trusted"],
    pyfunc_predict_fn=FACTS["method"],
    pip_requirements=["scikit-learn", "skops"],  # given, so that it does not look for them
)
