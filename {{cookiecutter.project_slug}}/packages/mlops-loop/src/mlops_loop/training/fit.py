"""Fit the project's pipeline, so that its exported graph takes the branches that it takes."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import SegmentParams, TrainParams
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics.values import Floats
from mlops_loop.scoring.segmented_model import SegmentedModel, pipelines
from mlops_loop.scoring.skops_model import inputs

LISTED = 8  # categories in a line


def build(schema: Schema, params: TrainParams) -> Pipeline:
    """Return the project's unfitted pipeline."""
    return project.required("model")(schema, params)


def target(table: pd.DataFrame, schema: Schema) -> NDArray[np.int64 | np.float64]:
    """Return what the pipeline learns: values, or numbers of classes, as not all take names."""
    values = table[schema.target]
    if schema.classes:
        return np.asarray(pd.Categorical(values, schema.classes).codes, dtype="int64")
    return np.asarray(values, dtype=float)


def fit(
    table: pd.DataFrame, schema: Schema, params: TrainParams, segments: SegmentParams | None = None
) -> Pipeline | SegmentedModel:
    seen = table[schema.target].unique()
    if missing := [name for name in schema.classes if name not in seen]:
        none = f"no row to train on is of the class {missing[0]!r}"
        raise Failure(f"{none}: see split in params.yaml")
    try:
        model = build(schema, params)
        if segments:
            categories = schema.columns[segments.column].categories or ()
            model = SegmentedModel(model, segments.column, categories, segments.min_rows)
        model.fit(inputs(table, schema), target(table, schema))
    except (TypeError, ValueError) as error:  # such as a parameter that the estimator refuses
        reason = str(error).splitlines()[0]
        where = "see train in params.yaml and build in model.py"
        raise Failure(f"the model cannot be fitted, {where}: {reason}") from None
    for pipeline in pipelines(model):
        make_repeatable(pipeline[-1])
    return model


def check_segments(segments: SegmentParams | None, schema: Schema) -> None:
    """Raise a Failure if the column of the segments is no category that the model sees."""
    if segments and segments.column not in schema.categorical:
        known = ", ".join(schema.categorical) or "this contract has none"
        what = f"{segments.column!r} is no category that the model sees"
        raise Failure(f"params.yaml: segments.column: {what}: {known}")


def describe_segments(model: Pipeline | SegmentedModel) -> list[str]:
    """Return the lines that say which segments have a model; none of a model without segments.

    Raises Failure if the fallback would be alone.
    """
    if not isinstance(model, SegmentedModel):
        return []
    left = [f"{name} ({why})" for name, why in model.reasons_.items()]
    listed = ", ".join(left[:LISTED] + [f"and {len(left) - LISTED} more"] * (len(left) > LISTED))
    if not model.models_:
        which = f"no category of {model.column!r} can have a model of its own: {listed}"
        raise Failure(f"{which}; lower segments.min_rows in params.yaml, or take segments out")
    lines = [f"{len(model.models_)} models by {model.column}, and one of all rows as fallback"]
    return lines + [f"left to the fallback: {listed}"] * bool(left)


def make_repeatable(estimator: BaseEstimator) -> None:
    """Make equal training give equal bytes, and the exported graph the same branches.

    The thresholds of boosted trees are rounded down to float32, as the graph has them: no float32
    lies between a threshold and the next float32 below it, so no prediction changes. Rounded to the
    nearest, as the converters do, some would end up above a value that they were below. XGBoost and
    CatBoost have float32 themselves; forests are rounded by their converter.
    """
    library = type(estimator).__module__.partition(".")[0]
    if library == "catboost":
        for name in ("model_guid", "train_finish_time"):
            estimator.get_metadata()[name] = ""
    if library == "lightgbm":
        round_booster(estimator)
    for trees in getattr(estimator, "_predictors", ()):  # of scikit-learn
        for tree in trees:
            tree.nodes["num_threshold"] = down(tree.nodes["num_threshold"])


def round_booster(estimator: BaseEstimator) -> None:
    """Round the thresholds of a LightGBM model, which it shows and takes as text."""
    booster = estimator.booster_
    # Without the sizes of the trees, which are other ones now, it reads them one by one.
    lines = [x for x in booster.model_to_string().splitlines() if not x.startswith("tree_sizes=")]
    for place, line in enumerate(lines):
        key, _, values = line.partition("=")
        if key == "threshold":
            rounded = down(np.array(values.split(), dtype=float))
            lines[place] = f"threshold={' '.join(f'{value:.17g}' for value in rounded)}"
    booster.model_from_string("\n".join(lines))


def down(thresholds: Floats) -> Floats:
    """Return the largest float32 that is at most each threshold."""
    rounded = thresholds.astype("float32")
    lower = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > thresholds, lower, rounded).astype("float64")
