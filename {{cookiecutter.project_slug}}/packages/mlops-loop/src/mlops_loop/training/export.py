"""Export: write the bundle, and prove that it predicts what the trained model predicts."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_loop.base import files
from mlops_loop.base.code_hash import code
from mlops_loop.base.errors import Refusal
from mlops_loop.base.files import (
    BEHAVED,
    BEHAVIOUR,
    BUNDLE,
    COMPARISON,
    FAIRNESS,
    INTERVALS,
    METRICS,
    MODEL,
    PLOTS,
    REPORTS,
    SCHEMA,
    SLICES,
    TEST,
    TRAIN,
)
from mlops_loop.base.params import Params, load_params
from mlops_loop.base.project import fingerprint
from mlops_loop.contract import versions
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.contract.values import Value
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Floats, Predictions, Scores
from mlops_loop.reporting import page
from mlops_loop.scoring import self_check
from mlops_loop.scoring.bundle import (
    HELD_OUT,
    REFERENCE,
    Bundle,
    hashes,
    open_bundle,
    write_manifest,
)
from mlops_loop.scoring.estimator import describe
from mlops_loop.scoring.manifest import Estimator, Manifest
from mlops_loop.scoring.promotion import PromotionFacts
from mlops_loop.scoring.scorer import Scorer, load_scorer, open_scorer
from mlops_loop.scoring.skops_model import columns, load, scores
from mlops_loop.training.auto import load_comparison
from mlops_loop.training.card.compose import Evidence, Subject, card
from mlops_loop.training.card.promotion import card_page
from mlops_loop.training.to_onnx import to_onnx

INPUTS = SCHEMA, BEHAVIOUR, TRAIN, TEST, MODEL
SECTIONS = {"ingest", "split", "train", "evaluate", "export"}  # of params.yaml: make the bundle
VALIDATED = REPORTS / "data/validation.json"
EVIDENCE = (
    COMPARISON,
    METRICS,
    INTERVALS,
    SLICES,
    FAIRNESS,
    BEHAVED,
    VALIDATED,
)  # and the tables of the plots


def write_model(folder: Path, model: Pipeline, schema: Schema, kind: str) -> None:
    """Write model.onnx or, where ONNX cannot express the model, model.skops."""
    if kind == "skops":
        shutil.copy(MODEL, folder / "model.skops")
    else:
        (folder / "model.onnx").write_bytes(to_onnx(model, schema))


def example(table: pd.DataFrame, schema: Schema) -> dict[str, Value]:
    """Return a row with few gaps as JSON values: the example in the API's documentation."""
    inputs = table[list(schema.inputs)]
    fullest = inputs.isna().sum(axis="columns").idxmin()
    (row,) = tables.as_json(inputs.loc[[fullest]], schema)
    return {name: value for name, value in row.items() if value is not None}


def deciles(predicted: Floats) -> list[float]:
    """Return the nine values that divide predictions into tenths, for the server's metrics."""
    edges: list[float] = np.quantile(predicted, np.linspace(0.1, 0.9, 9)).tolist()
    return edges


def difference(model: Pipeline, scorer: Scorer, table: pd.DataFrame, schema: Schema) -> float:
    """Return how far the exported model's scores are from the trained one's, relatively."""
    trained = scores(model, table, schema)
    exported = scorer.scores(columns(table, schema))
    return float(np.abs(exported - trained).max() / max(np.abs(trained).max(), 1e-30))


def reference(sample: pd.DataFrame, predicted: Predictions, schema: Schema) -> pd.DataFrame:
    """Return what the model learned from, for the monitor: features, time, its predictions."""
    when = [schema.timestamp] if schema.timestamp else []
    return sample[[*schema.features, *when]].assign(**{schema.prediction: predicted})


def held_out(judged: pd.DataFrame, scored: Scores, schema: Schema) -> pd.DataFrame:
    """Return truth, time and scores, a column each, of rows that the model had not seen."""
    when = [schema.timestamp] if schema.timestamp else []
    found = judged[[schema.target, *when]]
    return found.assign(**{f"score {place}": scored[:, place] for place in range(scored.shape[1])})


def reports() -> dict[str, str]:
    """Return the SHA-256 of each report that card and gates rest on, by its path in reports/."""
    paths = [*EVIDENCE, *sorted(PLOTS.glob("*.csv"))]
    return {path.relative_to(REPORTS).as_posix(): files.sha256(path) for path in paths}


def write_card(
    folder: Path, schema: Schema, params: Params, estimator: Estimator, made: Manifest
) -> None:
    """Write the bundle's card.md and card.html, with the plots they show."""
    pictures = sorted(PLOTS.glob("*.png"))
    (folder / "plots").mkdir()
    for picture in pictures:
        shutil.copy(picture, folder / "plots")
    hashes = {"SHA-256 of the parameters": made.params_sha256}
    hashes |= {f"SHA-256 of {name}": value for name, value in made.data_sha256.items()}
    slices = pd.read_csv(SLICES, converters={"value": str})  # a value may be called NA, or 007
    groups = pd.read_csv(FAIRNESS, converters={"group": str})
    measured = files.read_json(METRICS), files.read_json(INTERVALS)
    compared = load_comparison().table
    found = Evidence(*measured, slices, groups, pd.read_csv(BEHAVED), compared)
    about = Subject(schema, params, estimator)
    text = card(about, found, [picture.stem for picture in pictures], hashes)
    (folder / "card.md").write_text(text, encoding="utf-8")
    (folder / "card.html").write_text(card_page(text, folder), encoding="utf-8")


def write_check_rows(folder: Path, made: Manifest, schema: Schema, params: Params) -> None:
    """Write rows with their scores: whoever loads the bundle computes them again."""
    manifest = made.model_copy(update={"files": hashes(folder)})
    unsealed = Bundle(folder, manifest, PromotionFacts(), schema, "")
    scorer = load_scorer(unsealed)
    gate = params.gates.parity
    rows = tables.as_json(tables.read_sample(TEST, self_check.ROWS), schema)
    tolerance = gate.max_difference if gate else self_check.TOLERANCE
    found = self_check.compute(rows, schema, scorer.derive, scorer.scores, tolerance)
    files.write_text(folder / self_check.FILE, found.model_dump_json() + "\n")


def describe_bundle(
    schema: Schema, params: Params, estimator: Estimator, test: pd.DataFrame, predicted: Predictions
) -> Manifest:
    """Return the facts of the bundle, without the hashes of its files."""
    metrics = files.read_json(METRICS)
    used = params.model_dump(mode="json", include=SECTIONS)
    numerical = tasks.of(schema).PREDICTION_KIND == "numerical"
    return Manifest(
        mlops_loop=versions.VERSION,
        **schema.model_dump(include={"name", "task", "target", "positive"}),
        classes=schema.classes,
        **{name: metrics[name] for name in ("threshold", "half_width") if name in metrics},
        metrics=metrics["test"],
        baseline=metrics["baseline"],
        estimator=estimator,
        params=used,
        params_sha256=sha256(json.dumps(used, sort_keys=True).encode()).hexdigest(),
        data_sha256={path.name: files.sha256(path) for path in (TRAIN, TEST)},
        reports_sha256=reports(),
        code_sha256=code(),
        code={plugin: fingerprint(plugin) for plugin in ("derive", "model")},
        inputs_sha256={path.as_posix(): files.sha256(path) for path in INPUTS},
        example=example(test.head(1000), schema),
        deciles=deciles(cast(Floats, predicted)) if numerical else [],
    )


def main() -> None:
    schema = load_schema()
    params = load_params()
    model = load(MODEL)
    task = tasks.of(schema)
    test = tables.read_table(TEST)
    sample = tables.read_sample(TRAIN, params.export.reference_rows)
    predicted = task.predictions(scores(model, sample, schema), schema)
    estimator = describe(model)
    made = describe_bundle(schema, params, estimator, test, predicted)
    with files.writing(BUNDLE) as folder:
        folder.mkdir()
        write_model(folder, model, schema, params.export.format)
        shutil.copy(SCHEMA, folder / "schema.yaml")
        write_check_rows(folder, made, schema, params)
        reference(sample, predicted, schema).to_parquet(folder / REFERENCE, index=False)
        judged = tables.read_sample(TEST, params.export.reference_rows)
        held_out(judged, scores(model, judged, schema), schema).to_parquet(
            folder / HELD_OUT, index=False
        )
        write_card(folder, schema, params, estimator, made)
        write_manifest(folder, made)
        scorer = open_scorer(open_bundle(folder))
        limit = params.gates.parity
        parts = (
            test.iloc[first : first + files.BATCH] for first in range(0, len(test), files.BATCH)
        )
        found = max(difference(model, scorer, part, schema) for part in parts)
        if limit and not found <= limit.max_difference:
            allowed = f"gates.parity in params.yaml allows {limit.max_difference:.2g}"
            raise Refusal(
                f"the exported model differs from the trained one by {found:.2g}; {allowed}"
            )
    page.write_overview()
    print(f"export: {BUNDLE}, within {found:.1e} of the trained model on {len(test):,} rows")
