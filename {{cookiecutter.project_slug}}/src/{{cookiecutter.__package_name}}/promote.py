"""Promote: register the bundle as a version, and crown it if it beats the champion."""

import getpass
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from . import NAME, files, tasks, tracking
from .bundle import PROMOTION, Bundle, open_bundle
from .errors import Failure, Refusal
from .export import columns
from .files import BUNDLE, TEST
from .params import load_params
from .serve.scorer import Scorer
from .settings import Settings, load_settings


def measure(bundle: Bundle, table: pd.DataFrame) -> dict[str, float]:
    """Return the bundle's metrics on a labelled table, through the scorer that serves it."""
    schema, task = bundle.schema, tasks.of(bundle.schema)
    truth, scored = task.truth(table, schema), Scorer(bundle).scores(columns(table, schema))
    params = load_params().evaluate
    measured: dict[str, float] = task.measure(truth, scored, bundle.manifest, schema, params)
    return measured


def objections(
    candidate: dict[str, float], rivals: dict[str, dict[str, float]], gates: dict[str, bool], gain: float
) -> list[str]:
    """Return why the candidate may not be crowned; all metrics are of the same window.

    `gates` says which metrics count, and of each whether more is better. All count against the
    naive baseline, and the first, by at least `gain`, against the champion.
    """
    found = []
    for rival, metrics in rivals.items():
        margin = gain if rival == "champion" else 0
        for name in list(gates)[:1] if rival == "champion" else gates:
            limit = metrics[name] + (margin if gates[name] else -margin)
            better = candidate[name] > limit if gates[name] else candidate[name] < limit
            if not better:  # NaN is no better either
                side = "above" if gates[name] else "below"
                found.append(f"{name} {candidate[name]:.4f} is not {side} the {rival}'s {limit:.4f}")
    return found


def rival(champion: Bundle, candidate: Bundle, window: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the champion's metrics on the window; nothing if it is of another table or target."""
    old, new = champion.schema, candidate.schema
    if (old.name, old.task, old.target, old.classes) != (new.name, new.task, new.target, new.classes):
        return {}
    if gone := [name for name in old.features if name not in window]:
        why = f"the champion predicts from {gone[0]!r}, which schema.yaml no longer has"
        raise Failure(f"{why}, so the two cannot be compared: begin a new registry, see MLFLOW_TRACKING_URI")
    return {"champion": measure(champion, window)}


def install(version: ModelVersion, target: Path) -> dict[str, Any]:
    """Put a registered version's bundle where the server looks for it; return its record."""
    promotion = {"version": str(version.version), "run_id": version.run_id, **version.tags}
    uri = f"runs:/{version.run_id}/bundle/{version.tags['bundle_sha256'][:12]}"
    with tempfile.TemporaryDirectory() as folder, files.writing(target) as beside:
        shutil.copytree(mlflow.artifacts.download_artifacts(uri, dst_path=folder), beside)
        files.write_json(beside / PROMOTION, promotion)
    return promotion


def install_champion(settings: Settings) -> None:
    with tracking.session(settings) as client:
        if champion := tracking.by_alias(client, "champion"):
            install(champion, Path(settings.bundle))


def promote() -> dict[str, Any]:
    """Register the bundle, compare it with the champion, crown or refuse it; return the record.

    Either way the server's bundle is the registry's champion afterwards.
    """
    target, gain = Path(load_settings().bundle), load_params().promote.min_gain
    if target.resolve() == BUNDLE.resolve():
        raise Failure(f"BUNDLE is {BUNDLE}, the candidate's own folder: name another for the champion")
    candidate, window = open_bundle(BUNDLE), files.read_table(TEST)
    if candidate.manifest["data_sha256"][TEST.name] != files.sha256(TEST):
        raise Failure(f"{BUNDLE} was not made from {TEST}: run `uv run dvc repro`")
    gates = tasks.of(candidate.schema).GATES
    rivals = {"naive baseline": candidate.manifest["baseline"]}
    with tracking.session(load_settings()) as client:
        run_id = tracking.record_training(client)
        champion = tracking.by_alias(client, "champion")
        version = tracking.register(client, run_id, candidate)
        if champion:
            install(champion, target)
            rivals |= rival(open_bundle(target), candidate, window)
        new = champion is None or champion.version != version.version
        if new:
            if against := "; ".join(objections(measure(candidate, window), rivals, gates, gain)):
                client.set_registered_model_alias(NAME, "challenger", version.version)
                client.set_model_version_tag(NAME, version.version, "refused", against)
                raise Refusal(f"version {version.version} stays a challenger: {against}")
            promoted_at = datetime.now(UTC).isoformat(timespec="seconds")
            for key, value in (("promoted_by", getpass.getuser()), ("promoted_at", promoted_at)):
                client.set_model_version_tag(NAME, version.version, key, value)
            if champion:
                client.set_registered_model_alias(NAME, "previous", champion.version)
            client.set_registered_model_alias(NAME, "champion", version.version)
            challenger = tracking.by_alias(client, "challenger")
            if challenger and challenger.version == version.version:  # refused once, better now
                client.delete_registered_model_alias(NAME, "challenger")
                client.delete_model_version_tag(NAME, version.version, "refused")
        return install(client.get_model_version(NAME, version.version), target) | {"new": new}
