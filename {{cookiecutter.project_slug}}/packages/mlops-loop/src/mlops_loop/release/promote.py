"""Promote: register the bundle as a version, judge it by every gate, promote it or say why not."""

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import mlflow
import sqlalchemy as sa
from mlflow import MlflowClient
from rich.console import Console

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE, PARAMS, TEST
from mlops_loop.base.params import load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.data import tables
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release import audit
from mlops_loop.release.champion import SETTLED, install, install_version, record, settle, target
from mlops_loop.release.gates.run import run_gates
from mlops_loop.release.promotion import Promotion, reasons
from mlops_loop.scoring.bundle import CARDS, Bundle, Manifest, open_bundle
from mlops_loop.tracking import runs
from mlops_loop.tracking.registry import Registry, Version, by_number, of_bundle, open_registry
from mlops_loop.tracking.session import session
from mlops_loop.training.card.promotion import finish
from mlops_loop.training.export import SECTIONS


def promote() -> Promotion:
    """Register the bundle, judge it, and make it champion or refuse it.

    Either way the served folder then holds the registry's champion, and the audit log a line.
    """
    settings = load_settings()
    params = load_params()
    folder = target()
    candidate = open_bundle(BUNDLE)
    window = tables.read_sample(TEST, params.gates.max_rows)
    check_inputs(candidate)
    with session(settings) as client:
        registry = open_registry(settings)
        log = audit.open_audit(settings.prediction_log_url)
        champion = settle(registry, log)
        seen = audit.last_move(log, registry.name)
        install(registry, folder)
        version = find_commit(registry, log, register(client, registry, candidate))
        before = champion.number if champion else None
        results = list[GateResult]()
        if before != version.number:
            check_not_rolled_back(version)
            served = open_bundle(folder) if champion else None
            with Console(stderr=True).status("Starting the candidate and comparing it"):
                results = run_gates(candidate, served, window, params)
            decide(registry, log, seen, version, before, candidate.manifest, results)
            version = by_number(registry, version.number) or version
        log_card(client, version, candidate)  # which a crash may have prevented before
        if reasons(results):
            install_version(registry, version, Path(settings.challenger))  # for TRAFFIC, if set
        else:
            install(registry, folder)
    return Promotion.of(version.number, before, results)


def decide(
    registry: Registry,
    log: sa.Engine,
    seen: audit.Seen,
    version: Version,
    before: str | None,
    made: Manifest,
    results: list[GateResult],
) -> None:
    """Write down what the gates say, in the audit log first, and carry it out.

    `before` is the champion, and `seen` the line that made it that.
    """
    number = version.number
    against = "; ".join(reasons(results))
    gates = [asdict(result) for result in results]
    registry.set_tag(number, "gates", json.dumps(gates))
    facts = audit.Facts.model_validate(
        {
            "version": number,
            "before": before,
            "reason": against or "it passed every gate",
            "gates": gates,
            "data_sha256": made.data_sha256,
            **{key: version.tags.get(key) for key in ("bundle_sha256", "git_commit", "dvc_lock")},
        }
    )
    if against:
        line = audit.append(log, registry.name, "refused", facts)
        registry.set_alias("challenger", number)
        registry.set_tag(number, "refused", against)
        registry.set_tag(number, SETTLED, line.sha256)
    else:
        audit.append(log, registry.name, "promoted", facts, seen)
        settle(registry, log)
        # It was compared with the former champion.
        shutil.rmtree(load_settings().challenger, ignore_errors=True)


def register(client: MlflowClient, registry: Registry, bundle: Bundle) -> Version:
    """Register the bundle as a version of the model, once, with the bundle among its files."""
    run_id = runs.record_training(client)
    if known := of_bundle(registry, bundle.sha256):
        return known[0]
    client.log_artifacts(run_id, str(bundle.folder), f"bundle/{bundle.sha256[:12]}")
    uri = client.get_run(run_id).data.tags["model_uri"]
    tags = {"bundle_sha256": bundle.sha256, **runs.lineage()}
    made = mlflow.register_model(uri, registry.name, tags=tags)
    first = of_bundle(registry, bundle.sha256)[0]
    if first.number != str(made.version):  # another process has registered it at the same time
        client.delete_model_version(registry.name, made.version)
    return first


def log_card(client: MlflowClient, version: Version, bundle: Bundle) -> None:
    """Log the model card with the gates' results to the version's run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(bundle.folder, Path(name) / "card"))
        finish(folder, record(version))
        for file in sorted(CARDS):
            place = f"card/version-{version.number}"
            client.log_artifact(version.run_id, str(folder / file), place)


def check_inputs(candidate: Bundle) -> None:
    """Raise a Failure if the work tree is no longer what the candidate was made from."""
    made = candidate.manifest
    now = load_params().model_dump(mode="json", include=SECTIONS)
    known = made.inputs_sha256.items()
    changed = [name for name, digest in known if files.sha256(Path(name)) != digest]
    if made.params != now:
        changed.append(PARAMS.name)
    if changed:
        raise Failure(f"{BUNDLE} was not made from this {changed[0]}: run `uv run dvc repro`")


def find_commit(registry: Registry, log: sa.Engine, version: Version) -> Version:
    """Give a version of uncommitted changes its commit, once there is one; `reproduce` tests it."""
    if not (version.tags.get("git_commit") or "-dirty").endswith("-dirty"):
        return version
    found = runs.lineage()
    if not found["git_commit"] or found["git_commit"].endswith("-dirty"):
        note = "note: this version holds uncommitted changes; commit them, then promote again"
        print(note, file=sys.stderr)
        return version
    for key, value in found.items():
        registry.set_tag(version.number, key, value)
    reason = "what it was made from is in this commit now"
    facts = audit.Facts.model_validate({"version": version.number, "reason": reason, **found})
    audit.append(log, registry.name, "committed", facts)
    return by_number(registry, version.number) or version


def check_not_rolled_back(version: Version) -> None:
    """Raise a Refusal for a version that was champion, and was rolled back."""
    if when := version.tags.get("rolled_back"):
        back = f"train another one, or return to it by `rollback {version.number}`"
        raise Refusal(f"version {version.number} was rolled back: {when.strip()}; {back}")
