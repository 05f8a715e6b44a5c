"""Promote: register the bundle as a version, judge it by every gate, promote it or say why not."""

import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import JsonValue
from rich.console import Console

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE, PARAMS, TEST
from mlops_loop.base.params.params_file import load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.data import tables
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release import audit, registry
from mlops_loop.release.champion import SETTLED, install, install_version, record, settle, target
from mlops_loop.release.gates.run import run_gates
from mlops_loop.release.promotion import Promotion, reasons
from mlops_loop.scoring.bundle import CARDS, Bundle, open_bundle
from mlops_loop.tracking import runs
from mlops_loop.tracking.session import experiment_name, session
from mlops_loop.training.card.promotion import finish
from mlops_loop.training.export import SECTIONS


def log_card(client: MlflowClient, version: ModelVersion, bundle: Bundle) -> None:
    """Log the model card with the verdicts to the version's run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(bundle.folder, Path(name) / "card"))
        finish(folder, record(version))
        for file in sorted(CARDS):
            client.log_artifact(
                version.run_id, str(folder / file), f"card/version-{version.version}"
            )


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


def find_commit(client: MlflowClient, log: sa.Engine, version: ModelVersion) -> ModelVersion:
    """Give a version of uncommitted changes its commit, once there is one; `reproduce` tests it."""
    if not (version.tags["git_commit"] or "-dirty").endswith("-dirty"):
        return version
    found = runs.lineage()
    if not found["git_commit"] or found["git_commit"].endswith("-dirty"):
        note = "note: this version holds uncommitted changes; commit them, then promote again"
        print(note, file=sys.stderr)
        return version
    for key, value in found.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    reason = "what it was made from is in this commit now"
    facts: dict[str, JsonValue] = {"version": str(version.version), "reason": reason, **found}
    audit.append(log, version.name, "committed", facts, audit.last_move(log, version.name))
    return client.get_model_version(version.name, version.version)


def check_not_rolled_back(version: ModelVersion) -> None:
    """Raise a Refusal for a version that was champion, and was rolled back."""
    if when := version.tags.get("rolled_back"):
        back = f"train another one, or return to it by `rollback {version.version}`"
        raise Refusal(f"version {version.version} was rolled back: {when.strip()}; {back}")


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
        log = audit.open_audit(settings.prediction_log_url)
        champion = settle(client, log)
        seen = audit.last_move(log, experiment_name())
        install(client, folder)
        version = registry.register(client, runs.record_training(client), candidate)
        version = find_commit(client, log, version)
        if champion and champion.version == version.version:
            log_card(client, version, candidate)  # which a crash may have prevented
            install(client, folder)
            number = str(version.version)
            return Promotion(outcome="unchanged", version=number, champion=number)
        check_not_rolled_back(version)
        served = open_bundle(folder) if champion else None
        with Console(stderr=True).status("Starting the candidate and comparing it"):
            results = run_gates(candidate, served, window, params)
        return decide(Decision(client, log, seen, champion, version, candidate), results)


@dataclass(frozen=True)
class Decision:
    """What a promotion decides on: a version, and the champion that it would follow."""

    client: MlflowClient
    log: sa.Engine
    seen: audit.Seen
    champion: ModelVersion | None
    version: ModelVersion
    candidate: Bundle

    @property
    def number(self) -> str:
        return str(self.version.version)

    @property
    def before(self) -> str | None:
        return str(self.champion.version) if self.champion else None


def decide(decision: Decision, results: list[GateResult]) -> Promotion:
    """Write down what the gates say, in the audit log first, and carry it out."""
    client = decision.client
    name = decision.version.name
    number = decision.number
    against = "; ".join(reasons(results))
    gates: list[JsonValue] = [asdict(result) for result in results]
    client.set_model_version_tag(name, number, "gates", json.dumps(gates))
    facts: dict[str, JsonValue] = {
        "version": number,
        "before": decision.before,
        "reason": against or "it passed every gate",
        "gates": gates,
        "data_sha256": {**decision.candidate.manifest.data_sha256},
        **{
            key: decision.version.tags.get(key)
            for key in ("bundle_sha256", "git_commit", "dvc_lock")
        },
    }
    if against:
        return refuse(decision, results, facts, against)
    audit.append(decision.log, name, "promoted", facts, decision.seen)
    settle(client, decision.log)
    # It was compared with the former champion.
    shutil.rmtree(load_settings().challenger, ignore_errors=True)
    log_card(client, client.get_model_version(name, number), decision.candidate)
    install(client, target())
    return Promotion(outcome="promoted", version=number, champion=number, gates=results)


def refuse(
    decision: Decision, results: list[GateResult], facts: dict[str, JsonValue], against: str
) -> Promotion:
    """Keep a version as challenger, with the reasons."""
    client = decision.client
    name = decision.version.name
    number = decision.number
    seen = audit.last_move(decision.log, name)
    line = audit.append(decision.log, name, "refused", facts, seen)
    client.set_registered_model_alias(name, "challenger", number)
    client.set_model_version_tag(name, number, "refused", against)
    client.set_model_version_tag(name, number, SETTLED, line.sha256)
    version = client.get_model_version(name, number)
    log_card(client, version, decision.candidate)
    install_version(version, Path(load_settings().challenger))  # for TRAFFIC, should that be set
    return Promotion(outcome="refused", version=number, champion=decision.before, gates=results)
