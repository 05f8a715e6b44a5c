"""Export: write the bundle, and prove that it predicts what the trained model predicts."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from mlops_loop.base import files
from mlops_loop.base.code_hash import code
from mlops_loop.base.errors import Refusal
from mlops_loop.base.params import Params, dump, load_params
from mlops_loop.base.project import current_project, fingerprint
from mlops_loop.contract import versions
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.contract.values import Value
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.reporting import page
from mlops_loop.scoring import self_check
from mlops_loop.scoring.bundle import (
    HELD_OUT,
    MLSERVER_FILE,
    MLSERVER_SETTINGS,
    REFERENCE,
    Bundle,
    Manifest,
    PromotionFacts,
    Segments,
    hashes,
    open_bundle,
    write_manifest,
)
from mlops_loop.scoring.scorer import Scorer, load_scorer, open_scorer
from mlops_loop.scoring.segmented_model import SegmentedModel, pipelines
from mlops_loop.scoring.skops_model import columns, describe, load, scores
from mlops_loop.training.card import compose
from mlops_loop.training.evidence import REPORTS, Evidence, read_evidence
from mlops_loop.training.to_onnx import to_onnx

INPUTS = files.SCHEMA, files.BEHAVIOUR, files.TRAIN, files.TEST, files.MODEL
SECTIONS = {
    "ingest",
    "split",
    "train",
    "segments",
    "evaluate",
    "export",
}  # of params.yaml: make the bundle


def difference(model: Pipeline, scorer: Scorer, table: pd.DataFrame, schema: Schema) -> float:
    """Return how far the exported model's scores are from the trained one's, relatively."""
    found = []
    for first in range(0, len(table), files.BATCH):
        part = table.iloc[first : first + files.BATCH]
        trained = scores(model, part, schema)
        exported = scorer.scores(columns(part, schema))
        found.append(np.abs(exported - trained).max() / max(np.abs(trained).max(), 1e-30))
    return float(max(found))


def describe_bundle(
    schema: Schema,
    params: Params,
    evidence: Evidence,
    model: Pipeline,
    example: dict[str, Value],
    predicted: pd.Series,
) -> Manifest:
    """Return the facts of the bundle, without the hashes of its files."""
    used = dump(params, SECTIONS)
    numerical = pd.api.types.is_numeric_dtype(predicted)
    deciles = predicted.quantile(np.linspace(0.1, 0.9, 9)).tolist() if numerical else []
    reports = [*REPORTS, *sorted(files.PLOTS.glob("*.csv"))]
    return Manifest(
        mlops_loop=versions.VERSION,
        **schema.model_dump(include={"name", "task", "target", "positive"}),
        classes=schema.classes,
        metrics={**evidence.metrics["test"]},
        baseline={**evidence.metrics["baseline"]},
        estimator=describe(model),
        params=used,
        params_sha256=sha256(json.dumps(used, sort_keys=True).encode()).hexdigest(),
        data_sha256={path.name: files.sha256(path) for path in (files.TRAIN, files.TEST)},
        reports_sha256={
            path.relative_to(files.REPORTS).as_posix(): files.sha256(path) for path in reports
        },
        code_sha256=code(),
        code={plugin: fingerprint(plugin) for plugin in ("derive", "model")},
        inputs_sha256={path.as_posix(): files.sha256(path) for path in INPUTS},
        example=example,
        deciles=deciles,
    ).model_copy(update=evidence.point)


def write_model(
    folder: Path, model: Pipeline | SegmentedModel, schema: Schema, params: Params
) -> dict[str, Segments]:
    """Write the model's files; return what the manifest says of its segments, if it has some."""
    segmented = isinstance(model, SegmentedModel)
    names = list(model.models_) if segmented else []
    paths = ["model.skops"] * len(names)
    if params.export.format == "skops":
        shutil.copy(files.MODEL, folder / "model.skops")
    else:
        paths = [f"segments/{number}.onnx" for number in range(len(names))]
        for path, pipeline in zip(["model.onnx", *paths], pipelines(model), strict=True):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(to_onnx(pipeline, schema))
    found = dict(zip(names, paths, strict=True))
    return {"segments": Segments(model.column, found)} if segmented else {}


def choose_example(table: pd.DataFrame, schema: Schema) -> dict[str, Value]:
    """Return a row with few gaps as JSON values: the example in the API's documentation."""
    inputs = table[list(schema.inputs)]
    fullest = inputs.isna().sum(axis="columns").idxmin()
    (row,) = tables.as_json(inputs.loc[[fullest]], schema)
    return {name: value for name, value in row.items() if value is not None}


def write_samples(
    folder: Path, model: Pipeline, sample: pd.DataFrame, schema: Schema, rows: int
) -> None:
    """Write rows for the monitor: what the model learned from, and what it had not seen."""
    when = [schema.timestamp] if schema.timestamp else []
    learned = [*schema.features, schema.prediction, *when]
    sample[learned].to_parquet(folder / REFERENCE, index=False)
    judged = tables.read_sample(files.TEST, rows)
    scored = pd.DataFrame(scores(model, judged, schema), index=judged.index).add_prefix("score ")
    judged[[schema.target, *when]].join(scored).to_parquet(folder / HELD_OUT, index=False)


def write_check_rows(folder: Path, made: Manifest, schema: Schema, tolerance: float) -> None:
    """Write rows with their scores: whoever loads the bundle computes them again."""
    manifest = made.model_copy(update={"files": hashes(folder)})
    scorer = load_scorer(Bundle(folder, manifest, PromotionFacts(), schema, ""))
    rows = tables.as_json(tables.read_sample(files.TEST, self_check.ROWS), schema)
    found = self_check.compute(rows, schema, scorer.derive, scorer.scores, tolerance)
    files.write_text(folder / self_check.FILE, found.model_dump_json() + "\n")


def main() -> None:
    schema = load_schema()
    params = load_params()
    evidence = read_evidence(schema)
    model = load(files.MODEL)
    test = tables.read_table(files.TEST)
    rows = params.export.reference_rows
    sample = tables.read_sample(files.TRAIN, rows)
    predicted = tasks.of(schema).predictions(scores(model, sample, schema), schema)
    sample[schema.prediction] = predicted
    example = choose_example(test.head(1000), schema)
    made = describe_bundle(schema, params, evidence, model, example, sample[schema.prediction])
    gate = params.gates.parity
    with files.writing(files.BUNDLE) as folder:
        folder.mkdir()
        made = made.model_copy(update=write_model(folder, model, schema, params))
        shutil.copy(files.SCHEMA, folder / "schema.yaml")
        tolerance = gate.max_difference if gate else self_check.TOLERANCE
        write_check_rows(folder, made, schema, tolerance)
        write_samples(folder, model, sample, schema, rows)
        compose.write(folder, schema, params, made, evidence)
        write_manifest(folder, made)
        server = {"name": current_project().name, **MLSERVER_SETTINGS}
        files.write_json(folder / MLSERVER_FILE, server)
        found = difference(model, open_scorer(open_bundle(folder)), test, schema)
        if gate and not found <= gate.max_difference:
            allowed = f"gates.parity in params.yaml allows {gate.max_difference:.2g}"
            differs = f"the exported model differs from the trained one by {found:.2g}"
            raise Refusal(f"{differs}; {allowed}")
    page.write_overview()
    print(f"export: {files.BUNDLE}, within {found:.1e} of the trained model on {len(test):,} rows")
