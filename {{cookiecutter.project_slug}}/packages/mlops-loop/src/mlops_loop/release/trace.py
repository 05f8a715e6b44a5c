"""Trace: from a prediction back to model, run, commit, data, parameters and person."""

import json
import tempfile
from collections import Counter
from datetime import UTC, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.prediction_log.connection import error_summary, open_log
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.tracking.params import fitted_params, flat
from mlops_loop.tracking.registry import Registry, Version, open_registry

SLACK = timedelta(minutes=5)  # by which the clocks of server and registry may differ
WORDS = {True: "passed", False: "refused", None: "off or nothing to judge"}


def trace(prediction_id: str) -> None:
    """Print where a prediction comes from, as two columns."""
    found = facts(prediction_id)
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")


def facts(prediction_id: str) -> dict[str, str]:
    """Return what is known of how a prediction came about, from the answer to the data.

    Hashes and parameters are those of the registered bundle, whose files are checked against its
    hashes. Raises a Failure if the log has no such prediction, or the registry no such version.
    """
    row = logged(prediction_id)
    registry = open_registry(load_settings())
    version = find_version(registry, row)
    with tempfile.TemporaryDirectory() as name:
        bundle = registry.fetch(version, Path(name) / "bundle")
    made = bundle.manifest
    # A bundle of an older version does not tell the estimator.
    params = fitted_params(made.params, made.estimator) if made.estimator else flat(made.params)
    return {
        "prediction": prediction_id,
        "time": f"{row.time:%Y-%m-%d %H:%M:%S} UTC",
        "features": json.dumps(row.features, ensure_ascii=False),
        "answer": json.dumps(row.output, ensure_ascii=False),
        **version_facts(registry, version),
        "bundle.json, sha256": bundle.sha256,
        **{f"{name}, sha256": value for name, value in made.data_sha256.items()},
        "params, sha256": made.params_sha256,
        **{name: str(value) for name, value in params.items()},
    }


def logged(prediction_id: str) -> sa.Row[tuple[object, ...]]:
    """Return the prediction's row of the log; its time is UTC, from SQLite without a zone."""
    engine = open_log(load_settings().prediction_log_url)
    log = "the prediction log, see PREDICTION_LOG_URL,"
    try:
        with engine.connect() as connection:
            query = sa.select(PREDICTIONS).where(PREDICTIONS.c.id == prediction_id)
            row = connection.execute(query).first()
    except (SQLAlchemyError, ValueError) as error:  # ValueError: what no driver takes, such as \0
        raise Failure(f"{log} cannot be read: {error_summary(error)}") from None
    if row is None:
        raise Failure(f"{log} has no prediction {prediction_id!r}")
    return row


def find_version(registry: Registry, row: sa.Row[tuple[object, ...]]) -> Version:
    """Return the version that made a prediction."""
    if row.model_version.startswith("unpromoted-"):
        bundle = f"prediction {row.id} is of the bundle {row.model_version}"
        raise Failure(f"{bundle}: the registry has no record of it")
    about = f"version {row.model_version} of {registry.name}"
    version = registry.by_number(row.model_version)
    if version is None:
        other = "is MLFLOW_TRACKING_URI the one it was made in?"
        raise Failure(f"the registry does not know {about}: {other}")
    if version.created > row.time.replace(tzinfo=UTC) + SLACK:
        other = "another registry, see MLFLOW_TRACKING_URI"
        raise Failure(f"{about} is younger than the prediction: {other}")
    return version


def version_facts(registry: Registry, version: Version) -> dict[str, str]:
    """Return what the registry says of the version: who promoted it, its gates, run and commit."""
    tags = version.tags
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    results = Counter(WORDS[result["passed"]] for result in json.loads(tags.get("gates", "[]")))
    gates = ", ".join(f"{results[word]} {word}" for word in WORDS.values() if results[word])
    return {
        "model version": f"{registry.name} {version.number}{aliases}",
        "registered": f"{version.created:%Y-%m-%d %H:%M:%S} UTC",
        "promoted": f"{tags.get('promoted_at', 'never')} by {tags.get('promoted_by', 'nobody')}",
        **{
            name.replace("_", " "): tags[name]
            for name in ("refused", "rolled_back")
            if tags.get(name)
        },
        "gates": gates or "not on record",
        "run": version.run_id,
        "git commit": tags.get("git_commit") or "none: it was made outside of git",
        "dvc.lock, sha256": tags.get("dvc_lock") or "none",
    }
