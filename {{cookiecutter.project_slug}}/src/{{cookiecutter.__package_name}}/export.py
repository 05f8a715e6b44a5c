"""Export: write the bundle, and prove that it predicts what the trained model predicts."""

import json
import shutil
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.pipeline import Pipeline

from . import files
from .bundle import open_bundle, seal
from .errors import Refusal, run
from .files import BUNDLE, METRICS, MODEL, SCHEMA, SLICES, TEST, TRAIN
from .model import inputs, load, positive_probability
from .params import Params, load_params
from .schema import Schema, load_schema
from .serve.scorer import Scorer

SECTIONS = {"ingest", "split", "train", "evaluate", "export"}  # of params.yaml: make the bundle
CARD = """# Model card: {schema.name}

{schema.description}. The model predicts `{schema.target}`: {target.description}. It answers with a
probability; a row is called `{schema.positive}` from {metrics[threshold]:.3f} on.

## Data

Source: `{params.ingest.source}`, rows from {params.ingest.start} to {params.ingest.end}. Split by
time: trained before {params.split.train_end}, threshold chosen before
{params.split.validation_end}, judged on what came after.

{inputs}

## Results on the test window

{results}

The baseline predicts the training window's rate for each value of `{params.evaluate.baseline_by}`.

{slices}

## Limits

- Estimator: {params.train.model}. It knows only the categories and ranges of the contract.
- It was judged on {metrics[test][rows]:,} rows of one period. Seasons and habits change: watch it.
- {schema.limits}
"""


def card(schema: Schema, params: Params, metrics: dict[str, Any], by_slice: pd.DataFrame) -> str:
    """Return the model card as Markdown."""
    inputs = [(name, c.type, c.unit or "", c.description) for name, c in schema.features.items()]
    features = pd.DataFrame(inputs, columns=["feature", "type", "unit", "meaning"])
    results = pd.DataFrame({"model": metrics["test"], "baseline": metrics["baseline"]}).T
    tables = {
        "inputs": features.to_markdown(index=False),
        "results": results.astype({"rows": int}).astype(object).to_markdown(floatfmt=".4f"),
        "slices": by_slice.to_markdown(index=False, floatfmt=".3f"),
    }
    target = schema.columns[schema.target]
    return CARD.format(schema=schema, target=target, params=params, metrics=metrics, **tables)


def to_onnx(model: Pipeline, schema: Schema) -> bytes:
    """Return the fitted pipeline as an ONNX graph with one input for each feature."""
    types = [(name, FloatTensorType([None, 1])) for name in schema.numeric]
    types += [(name, StringTensorType([None, 1])) for name in schema.categorical]
    graph = convert_sklearn(model, schema.name, types, options={"zipmap": False})
    # The converter lists them in the order of a set, which differs from process to process.
    imports = sorted(graph.opset_import, key=lambda opset: str(opset.domain))
    del graph.opset_import[:]
    graph.opset_import.extend(imports)
    exported: bytes = graph.SerializeToString(deterministic=True)
    return exported


def columns(table: pd.DataFrame, schema: Schema) -> dict[str, list[Any]]:
    """Return the features as the scorer takes them: Python values, None where one is missing."""
    features = table[list(schema.features)].astype(object)
    return {name: values.where(values.notna(), None).tolist() for name, values in features.items()}


def example(table: pd.DataFrame, schema: Schema) -> dict[str, Any]:
    """Return a row with few gaps as JSON values: the example in the API's documentation."""
    features = table[list(schema.features)]
    row = features.loc[features.isna().sum(axis="columns").idxmin()].dropna()
    kinds: dict[str, Any] = {"number": float, "integer": int, "boolean": bool, "category": str}
    return {name: kinds[schema.features[name].type](value) for name, value in row.items()}


def main() -> None:
    schema, params = load_schema(), load_params()
    model, metrics = load(MODEL), files.read_json(METRICS)
    train, test = files.read_table(TRAIN), files.read_table(TEST)
    used = params.model_dump(mode="json", include=SECTIONS)
    facts = {
        **schema.model_dump(include={"name", "task", "target"}),
        "classes": [str(name) for name in model.classes_],
        "threshold": metrics["threshold"],
        "metrics": metrics["test"],
        "baseline": metrics["baseline"],
        "params": used,
        "params_sha256": sha256(json.dumps(used, sort_keys=True).encode()).hexdigest(),
        "data_sha256": {path.name: files.sha256(path) for path in (TRAIN, TEST)},
        "example": example(test, schema),
    }
    sample = train.sample(min(params.export.reference_rows, len(train)), random_state=0)
    scores = positive_probability(model, sample, schema).astype("float32")
    with files.writing(BUNDLE) as folder:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(to_onnx(model, schema))
        shutil.copy(SCHEMA, folder / "schema.yaml")
        reference = sample[list(schema.features)].assign(prediction=scores)
        reference.to_parquet(folder / "reference.parquet", index=False)
        text = card(schema, params, metrics, pd.read_csv(SLICES))
        (folder / "card.md").write_text(text, encoding="utf-8")
        seal(folder, facts)
        exported = Scorer(open_bundle(folder)).probabilities(columns(test, schema))
        difference = float(np.abs(exported - model.predict_proba(inputs(test, schema))).max())
        if difference > params.export.parity:
            limit = f"export.parity in params.yaml allows {params.export.parity:.2g}"
            raise Refusal(f"the exported model differs from the trained one by {difference:.2g}; {limit}")
    print(f"export: {BUNDLE}, within {difference:.1e} of the trained model on {len(test):,} rows")


if __name__ == "__main__":
    run(main)
