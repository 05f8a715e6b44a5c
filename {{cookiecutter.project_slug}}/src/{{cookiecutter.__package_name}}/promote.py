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
from sklearn.metrics import roc_auc_score

from . import NAME, files, tracking
from .bundle import PROMOTION, Bundle, open_bundle
from .errors import Failure, Refusal
from .export import columns
from .files import BUNDLE, TEST
from .params import load_params
from .serve.scorer import Scorer
from .settings import Settings, load_settings


def score(bundle: Bundle, table: pd.DataFrame) -> float:
    """Return the bundle's ROC AUC on a labelled table, through the scorer that serves it."""
    scorer = Scorer(bundle)
    scores = scorer.probabilities(columns(table, bundle.schema))[:, scorer.positive]
    return float(roc_auc_score(bundle.schema.truth(table), scores))


def objections(candidate: float, rivals: dict[str, float]) -> list[str]:
    """Return why the candidate may not be crowned; all are ROC AUCs on the same window."""
    return [
        f"ROC AUC {candidate:.4f} is not above the {rival}'s {limit:.4f}"
        for rival, limit in rivals.items()
        if not candidate > limit  # so that NaN is refused too
    ]


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
    rivals = {"naive baseline": candidate.manifest["baseline"]["roc_auc"]}
    with tracking.session(load_settings()) as client:
        run_id = tracking.record_training(client)
        champion = tracking.by_alias(client, "champion")
        version = tracking.register(client, run_id, candidate)
        if champion:
            install(champion, target)
            best = open_bundle(target)
            if best.schema.target != candidate.schema.target or not set(best.schema.features) <= set(window):
                why = "predicts something else, or from columns that are gone"
                raise Failure(f"the champion {why}: begin a new registry, see MLFLOW_TRACKING_URI")
            rivals["champion"] = score(best, window) + gain
        new = champion is None or champion.version != version.version
        if new:
            if against := "; ".join(objections(score(candidate, window), rivals)):
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
