"""Promote: register the bundle as a version, judge it by every gate, promote it or say why not."""

import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
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
from mlops_loop.scoring.bundle import CARDS, Bundle, open_bundle
from mlops_loop.tracking import runs
from mlops_loop.tracking.registry import Registry, Version, by_number, of_bundle, open_registry
from mlops_loop.tracking.session import session
from mlops_loop.training.card.promotion import finish
from mlops_loop.training.export import SECTIONS


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
    changed = [
        name for name, digest in made.inputs_sha256.items() if files.sha256(Path(name)) != digest
    ]
    if changed or made.params != now:
        other = (changed or [PARAMS.name])[0]
        raise Failure(f"{BUNDLE} was not made from this {other}: run `uv run dvc repro`")


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
    audit.append(log, registry.name, "committed", facts, audit.last_move(log, registry.name))
    return by_number(registry, version.number) or version


def check_not_rolled_back(version: Version) -> None:
    """Raise a Refusal for a version that was champion, and was rolled back."""
    if when := version.tags.get("rolled_back"):
        back = f"train another one, or return to it by `rollback {version.number}`"
        raise Refusal(f"version {version.number} was rolled back: {when.strip()}; {back}")


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
        if champion and champion.number == version.number:
            log_card(client, version, candidate)  # which a crash may have prevented
            install(registry, folder)
            return Promotion(outcome="unchanged", version=version.number, champion=version.number)
        check_not_rolled_back(version)
        served = open_bundle(folder) if champion else None
        with Console(stderr=True).status("Starting the candidate and comparing it"):
            results = run_gates(candidate, served, window, params)
        before = champion.number if champion else None
        return decide(Decision(registry, log, seen, before, version, candidate), client, results)


@dataclass(frozen=True)
class Decision:
    """What a promotion decides on: a version, and the champion that it would follow."""

    registry: Registry
    log: sa.Engine
    seen: audit.Seen
    before: str | None  # the champion
    version: Version
    candidate: Bundle


def decide(decision: Decision, client: MlflowClient, results: list[GateResult]) -> Promotion:
    """Write down what the gates say, in the audit log first, and carry it out."""
    registry = decision.registry
    number = decision.version.number
    against = "; ".join(reasons(results))
    registry.set_tag(number, "gates", json.dumps([asdict(result) for result in results]))
    facts = {
        "version": number,
        "before": decision.before,
        "reason": against or "it passed every gate",
        "gates": [asdict(result) for result in results],
        "data_sha256": decision.candidate.manifest.data_sha256,
        **{
            key: decision.version.tags.get(key)
            for key in ("bundle_sha256", "git_commit", "dvc_lock")
        },
    }
    event = "refused" if against else "promoted"
    seen = audit.last_move(decision.log, registry.name) if against else decision.seen
    told = audit.Facts.model_validate(facts)
    line = audit.append(decision.log, registry.name, event, told, seen)
    challenger = Path(load_settings().challenger)
    if against:
        registry.set_alias("challenger", number)
        registry.set_tag(number, "refused", against)
        registry.set_tag(number, SETTLED, line.sha256)
    else:
        settle(registry, decision.log)
        shutil.rmtree(challenger, ignore_errors=True)  # it was compared with the former champion
    version = by_number(registry, number) or decision.version
    log_card(client, version, decision.candidate)
    if against:
        install_version(registry, version, challenger)  # for TRAFFIC, should that be set
        return Promotion(outcome="refused", version=number, champion=decision.before, gates=results)
    install(registry, target())
    return Promotion(outcome="promoted", version=number, champion=number, gates=results)
