"""Export: write the bundle, and prove that it predicts what the trained model predicts."""

import json
import shutil
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.pipeline import Pipeline

from . import files, tasks
from .bundle import open_bundle, seal
from .errors import Refusal, run
from .files import BUNDLE, METRICS, MODEL, REPORTS, SCHEMA, SLICES, TEST, TRAIN, VALIDATION
from .model import inputs, load, scores
from .params import Params, load_params, shown
from .schema import Column, Schema, load_schema
from .serve.scorer import Scorer

SECTIONS = {"ingest", "split", "train", "evaluate", "export"}  # of params.yaml: make the bundle
CARD = """# Model card: {schema.name}

{schema.description}

The model predicts `{schema.target}`. {target.description}

{answers}

## Data

Source: `{source}`. {windows_text}

{windows}

{inputs}

## Results on the test window

{results}

The baseline predicts {baseline}.

{slices}

## Limits

- Estimator: {params.train.model}. It knows only the categories and ranges of the contract.
- It was judged on {metrics[test][rows]:,} rows{period}. Habits change: watch it.
{limits}
"""
BY_TIME = "Split by time: the model learned from the first window, and is judged on the last."
AT_RANDOM = (
    "The table has no time: it was split at random (seed {seed}), {by} by {by}. So the results hold for "
    "more rows like these, and say nothing about how the model ages."
)


def windows(schema: Schema) -> pd.DataFrame:
    """Return how many rows each window has and, where the table has a time, from when to when."""
    found: dict[str, dict[str, Any]] = {}
    for path in (TRAIN, VALIDATION, TEST):
        found[path.stem] = {"rows": parquet.read_metadata(path).num_rows}
        if schema.timestamp:
            times = pd.read_parquet(path, columns=[schema.timestamp])[schema.timestamp]
            found[path.stem] |= {"from": str(times.min()), "to": str(times.max())}
    return pd.DataFrame(found).T.rename_axis("window")


def overlap() -> list[str]:
    """Return what `validate` found of test rows that are among the training rows, if it matters."""
    for check in files.read_json(REPORTS / "data/validation.json")["checks"]:
        share = check["failed_rows"] / max(1, check["rows"])
        if check["rule"] == "test rows not to be in the training window" and share > 0.01:
            return [f"{share:.1%} of the test rows are also among the training rows: new rows will do worse."]
    return []


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def card(schema: Schema, params: Params, metrics: dict[str, Any], by_slice: pd.DataFrame) -> str:
    """Return the model card as Markdown."""
    inputs = [
        (cell(name), c.type, cell(c.unit or ""), allowed(c), cell(c.description))
        for name, c in schema.features.items()
    ]
    features = pd.DataFrame(inputs, columns=["feature", "type", "unit", "allowed", "meaning"])
    results = pd.DataFrame({"model": metrics["test"], "baseline": metrics["baseline"]}).T
    by, kind = params.evaluate.baseline_by, "class" if schema.classes else "decile of the target"
    usual = "share of each class" if schema.classes else "median"
    parts = {
        "answers": tasks.of(schema).ANSWERS.format(schema=schema, metrics=metrics, params=params),
        "windows_text": BY_TIME if schema.timestamp else AT_RANDOM.format(seed=params.split.seed, by=kind),
        "windows": windows(schema).to_markdown(),
        "inputs": features.to_markdown(index=False),
        "results": results.astype({"rows": int}).astype(object).to_markdown(floatfmt=".4f"),
        "baseline": f"the training window's {usual}" + (f" for each value of `{by}`" if by else ""),
        "slices": by_slice.to_markdown(index=False, floatfmt=".3f") if len(by_slice) else "",
        "limits": "\n".join(f"- {limit}" for limit in (*overlap(), schema.limits) if limit),
        "period": " of one period, with its season" if schema.timestamp else "",
        "source": shown(params.ingest.source),
        "target": schema.columns[schema.target],
    }
    return CARD.format(schema=schema, params=params, metrics=metrics, **parts)


def allowed(column: Column) -> str:
    """Return in a few words which values a column may have."""
    if column.categories is not None:
        values = f"{len(column.categories)} categories" + (" and others" if column.unseen else "")
    elif column.type == "boolean":
        values = "true, false"
    else:
        values = " to ".join(
            "any" if limit is None else f"{limit:g}" for limit in (column.minimum, column.maximum)
        )
    return values + (" or missing" if column.nullable else "")


def to_onnx(model: Pipeline, schema: Schema) -> bytes:
    """Return the fitted pipeline as an ONNX graph with one input for each feature, in their order.

    The converter replaces what is not a letter or digit in their names; the order stays.
    """
    text, number = StringTensorType([None, 1]), FloatTensorType([None, 1])
    types = [(name, text if name in schema.categorical else number) for name in schema.features]
    options = {"zipmap": False} if schema.classes else None  # probabilities as a table
    graph = convert_sklearn(model, schema.name, types, options=options)
    # The converter lists them in the order of a set, which differs from process to process.
    imports = sorted(graph.opset_import, key=lambda opset: str(opset.domain))
    del graph.opset_import[:]
    graph.opset_import.extend(imports)
    exported: bytes = graph.SerializeToString(deterministic=True)
    return exported


def columns(table: pd.DataFrame, schema: Schema) -> dict[str, Any]:
    """Return the features as the scorer takes them."""
    features = inputs(table, schema)
    return {name: values.to_numpy() for name, values in features.items()}


def example(table: pd.DataFrame, schema: Schema) -> dict[str, Any]:
    """Return a row with few gaps as JSON values: the example in the API's documentation."""
    features = table[list(schema.features)]
    row = features.loc[features.isna().sum(axis="columns").idxmin()].dropna()
    kinds: dict[str, Any] = {"number": float, "integer": int, "boolean": bool, "category": str}
    return {name: kinds[schema.features[name].type](value) for name, value in row.items()}


def difference(model: Pipeline, scorer: Scorer, table: pd.DataFrame, schema: Schema) -> float:
    """Return how far the exported model's scores are from the trained one's, relative to the largest."""
    trained = scores(model, table, schema)
    exported = scorer.scores(columns(table, schema))
    return float(np.abs(exported - trained).max() / max(np.abs(trained).max(), 1e-30))


def main() -> None:
    schema, params = load_schema(), load_params()
    model, metrics, task = load(MODEL), files.read_json(METRICS), tasks.of(schema)
    used = params.model_dump(mode="json", include=SECTIONS)
    test = files.read_table(TEST)
    facts = {
        **schema.model_dump(include={"name", "task", "target", "positive"}),
        "classes": schema.classes,
        **{key: value for key, value in metrics.items() if key not in ("test", "baseline", "validation")},
        "metrics": metrics["test"],
        "baseline": metrics["baseline"],
        "params": used,
        "params_sha256": sha256(json.dumps(used, sort_keys=True).encode()).hexdigest(),
        "data_sha256": {path.name: files.sha256(path) for path in (TRAIN, TEST)},
        "example": example(test.head(1000), schema),
    }
    sample = files.read_sample(TRAIN, params.export.reference_rows)
    predicted = task.predictions(scores(model, sample, schema), schema)
    with files.writing(BUNDLE) as folder:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(to_onnx(model, schema))
        shutil.copy(SCHEMA, folder / "schema.yaml")
        reference = sample[list(schema.features)].assign(**{schema.prediction: predicted})
        reference.to_parquet(folder / "reference.parquet", index=False)
        text = card(schema, params, metrics, pd.read_csv(SLICES))
        (folder / "card.md").write_text(text, encoding="utf-8")
        seal(folder, facts)
        scorer, limit = Scorer(open_bundle(folder)), params.export.parity
        parts = (test.iloc[first : first + files.BATCH] for first in range(0, len(test), files.BATCH))
        found = max(difference(model, scorer, part, schema) for part in parts)
        if not found <= limit:
            allowed = f"export.parity in params.yaml allows {limit:.2g}"
            raise Refusal(f"the exported model differs from the trained one by {found:.2g}; {allowed}")
    print(f"export: {BUNDLE}, within {found:.1e} of the trained model on {len(test):,} rows")


if __name__ == "__main__":
    run(main)
