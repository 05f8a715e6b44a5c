"""Trace: from a prediction back to model, run, commit, data, parameters and person."""

import json
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlflow.entities.model_registry import ModelVersion
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.release import registry
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.scoring.estimator import Estimator
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import experiment_name, session

SLACK = timedelta(minutes=5)  # by which the clocks of server and registry may differ


def logged(prediction_id: str) -> dict[str, Any]:
    """Return the prediction's row of the log; raise a Failure if there is none."""
    engine = open_log(load_settings().prediction_log_url)
    query = sa.select(PREDICTIONS).where(PREDICTIONS.c.id == prediction_id)
    try:
        with engine.connect() as connection:
            row = connection.execute(query).mappings().first()
    except (SQLAlchemyError, ValueError) as error:  # ValueError: what no driver takes, such as \0
        reason = str(error).partition("\n")[0]
        raise Failure(
            f"the prediction log, see PREDICTION_LOG_URL, cannot be read: {reason}"
        ) from None
    if row is None:
        raise Failure(
            f"the prediction log, see PREDICTION_LOG_URL, has no prediction {prediction_id!r}"
        )
    return {**row, "time": row["time"].replace(tzinfo=UTC)}  # SQLite keeps no zone


def verdicts(version: ModelVersion) -> str:
    """Return in a few words what the gates said of a version."""
    words = {True: "passed", False: "refused", None: "off or nothing to judge"}
    found = Counter(
        words[verdict["passed"]] for verdict in json.loads(version.tags.get("gates", "[]"))
    )
    return (
        ", ".join(f"{found[word]} {word}" for word in words.values() if found[word])
        or "not on record"
    )


def facts(prediction_id: str) -> dict[str, str]:
    """Return what is known of how a prediction came about, from the answer to the data.

    Hashes and parameters are those of the registered bundle, whose files are checked against its
    hashes. Raises a Failure if the log has no such prediction, or the registry no such version.
    """
    row, settings = logged(prediction_id), load_settings()
    number = row["model_version"]
    if number.startswith("unpromoted-"):
        raise Failure(
            f"prediction {prediction_id} is of the bundle {number}: "
            "the registry has no record of it"
        )
    with session(settings) as client, tempfile.TemporaryDirectory() as folder:
        version = registry.by_number(client, number)
        of = f"version {number} of {experiment_name()}"
        if version is None:
            raise Failure(
                f"the registry does not know {of}: is MLFLOW_TRACKING_URI the one it was made in?"
            )
        registered = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        if registered > row["time"] + SLACK:
            raise Failure(
                f"{of} is younger than the prediction: another registry, see MLFLOW_TRACKING_URI"
            )
        registry.fetch(version, Path(folder) / "bundle")
        bundle = open_bundle(Path(folder) / "bundle")
        run = client.get_run(version.run_id).info
    if bundle.sha256 != version.tags["bundle_sha256"]:
        raise Failure(f"the registry's files of {of} are not those that were registered")
    tags, manifest = version.tags, bundle.manifest
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    return {
        "prediction": prediction_id,
        "time": f"{row['time']:%Y-%m-%d %H:%M:%S} UTC",
        "features": json.dumps(row["features"], ensure_ascii=False),
        "answer": json.dumps(row["output"], ensure_ascii=False),
        "model version": f"{experiment_name()} {number}{aliases}",
        "registered": f"{registered:%Y-%m-%d %H:%M:%S} UTC",
        "promoted": f"{tags.get('promoted_at', 'never')} by {tags.get('promoted_by', 'nobody')}",
        **{
            name.replace("_", " "): tags[name]
            for name in ("refused", "rolled_back")
            if name in tags
        },
        "gates": verdicts(version),
        "run": f"{run.run_id} {run.run_name}",
        "git commit": tags.get("git_commit") or "none: it was made outside of git",
        "dvc.lock, sha256": tags.get("dvc_lock") or "none",
        "bundle.json, sha256": bundle.sha256,
        **{f"{name}, sha256": value for name, value in manifest["data_sha256"].items()},
        "params, sha256": manifest["params_sha256"],
        **{name: str(value) for name, value in made_with(manifest).items()},
    }


def made_with(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters behind a bundle, and the estimator that was fitted."""
    if "estimator" not in manifest:  # made by an older version
        return runs.flat(manifest["params"])
    return runs.fitted_params(manifest["params"], Estimator(**manifest["estimator"]))


def trace(prediction_id: str) -> None:
    """Print where a prediction comes from, as two columns."""
    found = facts(prediction_id)
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")
