"""Trace: from a prediction back to model, run, commit, data, parameters and person."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base.errors import Failure
from mlops_loop.base.settings import load_settings
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.predictions import LoggedPrediction
from mlops_loop.prediction_log.tables import PREDICTIONS
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.scoring.manifest import Manifest
from mlops_loop.tracking.params import fitted_params, flat
from mlops_loop.tracking.registry import Version, by_number, fetch_bundle, open_registry

SLACK = timedelta(minutes=5)  # by which the clocks of server and registry may differ


def logged(prediction_id: str) -> LoggedPrediction:
    """Return the prediction's row of the log; raise a Failure if there is none."""
    engine = open_log(load_settings().prediction_log_url)
    query = sa.select(PREDICTIONS).where(PREDICTIONS.c.id == prediction_id)
    try:
        with engine.connect() as connection:
            row = connection.execute(query).first()
    except (SQLAlchemyError, ValueError) as error:  # ValueError: what no driver takes, such as \0
        reason = str(error).partition("\n")[0]
        raise Failure(
            f"the prediction log, see PREDICTION_LOG_URL, cannot be read: {reason}"
        ) from None
    if row is None:
        raise Failure(
            f"the prediction log, see PREDICTION_LOG_URL, has no prediction {prediction_id!r}"
        )
    found = LoggedPrediction(*row)
    return replace(found, time=found.time.replace(tzinfo=UTC))  # SQLite keeps no zone


def format_gates(version: Version) -> str:
    """Return in a few words what the gates said of a version."""
    words = {True: "passed", False: "refused", None: "off or nothing to judge"}
    results = json.loads(version.tags.get("gates", "[]"))
    found = Counter(words[result["passed"]] for result in results)
    counted = [f"{found[word]} {word}" for word in words.values() if found[word]]
    return ", ".join(counted) or "not on record"


@dataclass(frozen=True)
class Origin:
    """The registered version behind a prediction, with its bundle and the name of its run."""

    model: str
    version: Version
    bundle: Bundle
    run: str


def origin(number: str, time: datetime) -> Origin:
    """Return where a prediction of this model version and time comes from.

    Raises a Failure if the registry has no such version, or other files than were registered.
    """
    registry = open_registry(load_settings())
    about = f"version {number} of {registry.name}"
    version = by_number(registry, number)
    if version is None:
        other = "is MLFLOW_TRACKING_URI the one it was made in?"
        raise Failure(f"the registry does not know {about}: {other}")
    if version.created > time + SLACK:
        other = "another registry, see MLFLOW_TRACKING_URI"
        raise Failure(f"{about} is younger than the prediction: {other}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "bundle"
        fetch_bundle(registry, version, folder)
        bundle = open_bundle(folder)
    if bundle.sha256 != version.tags["bundle_sha256"]:
        raise Failure(f"the registry's files of {about} are not those that were registered")
    return Origin(registry.name, version, bundle, registry.run_name(version.run_id))


def facts(prediction_id: str) -> dict[str, str]:
    """Return what is known of how a prediction came about, from the answer to the data.

    Hashes and parameters are those of the registered bundle, whose files are checked against its
    hashes. Raises a Failure if the log has no such prediction, or the registry no such version.
    """
    row = logged(prediction_id)
    number = row.model_version
    if number.startswith("unpromoted-"):
        unknown = "the registry has no record of it"
        raise Failure(f"prediction {prediction_id} is of the bundle {number}: {unknown}")
    found = origin(number, row.time)
    return {
        "prediction": prediction_id,
        "time": f"{row.time:%Y-%m-%d %H:%M:%S} UTC",
        "features": json.dumps(row.features, ensure_ascii=False),
        "answer": json.dumps(row.output, ensure_ascii=False),
        **version_facts(found),
        **bundle_facts(found.bundle),
    }


def version_facts(found: Origin) -> dict[str, str]:
    """Return what the registry says of the version: who promoted it, its gates, run and commit."""
    version = found.version
    tags = found.version.tags
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    moved = [name for name in ("refused", "rolled_back") if name in tags]
    return {
        "model version": f"{found.model} {version.number}{aliases}",
        "registered": f"{version.created:%Y-%m-%d %H:%M:%S} UTC",
        "promoted": f"{tags.get('promoted_at', 'never')} by {tags.get('promoted_by', 'nobody')}",
        **{name.replace("_", " "): tags[name] for name in moved},
        "gates": format_gates(version),
        "run": f"{version.run_id} {found.run}",
        "git commit": tags.get("git_commit") or "none: it was made outside of git",
        "dvc.lock, sha256": tags.get("dvc_lock") or "none",
    }


def bundle_facts(bundle: Bundle) -> dict[str, str]:
    """Return the hashes of the bundle and its data, and the parameters that it was made with."""
    manifest = bundle.manifest
    return {
        "bundle.json, sha256": bundle.sha256,
        **{f"{name}, sha256": value for name, value in manifest.data_sha256.items()},
        "params, sha256": manifest.params_sha256,
        **{name: str(value) for name, value in made_with(manifest).items()},
    }


def made_with(manifest: Manifest) -> Mapping[str, object]:
    """Return the parameters behind a bundle, and the estimator that was fitted."""
    if manifest.estimator is None:  # made by an older version
        return flat(manifest.params)
    return fitted_params(manifest.params, manifest.estimator)


def trace(prediction_id: str) -> None:
    """Print where a prediction comes from, as two columns."""
    found = facts(prediction_id)
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")
