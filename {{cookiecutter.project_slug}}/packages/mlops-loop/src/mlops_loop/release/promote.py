"""Promote: register the bundle as a version, judge it by every gate, promote it or say why not."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Self

import mlflow
from mlflow import MlflowClient
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import BUNDLE, PARAMS, TEST
from mlops_loop.base.params import Params, dump, load_params
from mlops_loop.base.settings import load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.base.work_tree import lineage
from mlops_loop.data import tables
from mlops_loop.metrics.gate_result import GateResult, format_reason
from mlops_loop.release.audit import MOVES, SETTLED, AuditLog, Facts, Seen
from mlops_loop.release.champion import install, install_version, settle, target
from mlops_loop.release.gates.run import advices, run_gates
from mlops_loop.scoring.bundle import CARDS, Bundle, open_bundle
from mlops_loop.tracking import runs
from mlops_loop.tracking.registry import Registry, Version, open_registry
from mlops_loop.tracking.session import session
from mlops_loop.training.export import SECTIONS

WORDS = {True: "passed", False: "[bold red]REFUSED", None: "[dim]not judged"}
SHOWN = 3  # reasons in the line that tells of a refusal; the table and the records have all


class Promotion(BaseModel, frozen=True):
    """`unchanged`: the candidate is champion already, and was not judged again."""

    outcome: Literal["promoted", "refused", "unchanged"]
    version: str  # of the candidate
    champion: str | None  # the version that is served from now on
    gates: list[GateResult] = []

    @property
    def reasons(self) -> list[str]:
        """Why the gates refuse the candidate; nothing if they do not."""
        return [format_reason(result) for result in self.gates if result.passed is False]

    @property
    def text(self) -> str:
        """The outcome as a line for people."""
        if self.outcome == "refused":
            more = len(self.reasons) - SHOWN
            listed = self.reasons[:SHOWN] + [f"and {more} more"] * (more > 0)
            return f"version {self.version} stays a challenger: {'; '.join(listed)}"
        if self.outcome == "promoted":
            return f"version {self.version} is the new champion"
        return f"version {self.version} is champion already; it was not judged again"

    def checked(self) -> Self:
        """Return it, or raise a Refusal with the gates' reasons."""
        if self.outcome == "refused":
            raise Refusal(self.text)
        return self


def promote() -> Promotion:
    """Register the bundle, judge it, and make it champion or refuse it.

    Either way the served folder then holds the registry's champion, and the audit log a line.
    """
    settings = load_settings()
    params = load_params()  # before a version is registered: there may be a mistake in them
    folder = target()
    candidate = open_bundle(BUNDLE)
    check_inputs(candidate)
    with session(settings) as client:
        registry = open_registry(settings)
        log = AuditLog(settings)
        champion = settle(registry, log)
        seen = log.seen(*MOVES)
        install(registry, folder)
        version = find_commit(registry, log, register(client, registry, candidate))
        before = champion.number if champion else None
        if before == version.number:
            promotion = Promotion(outcome="unchanged", version=before, champion=before)
        else:
            check_not_rolled_back(version)
            served = open_bundle(folder) if before else None
            promotion = judge(candidate, served, version.number, params)
            facts = facts_of(promotion, candidate, version, before)
            decide(registry, log, promotion, facts, seen)
        if promotion.outcome == "refused":
            folder = Path(settings.challenger)  # for TRAFFIC, if set
            install_version(registry, registry.by_number(version.number) or version, folder)
        else:
            install(registry, folder)
        log_card(client, version, folder)  # which a crash may have prevented before
    return promotion


def judge(candidate: Bundle, champion: Bundle | None, number: str, params: Params) -> Promotion:
    """Run every gate; return what comes of it."""
    window = tables.read_sample(TEST, params.gates.max_rows)
    with Console(stderr=True).status("Starting the candidate and comparing it"):
        gates = run_gates(candidate, champion, window, params)
    refused = any(result.passed is False for result in gates)
    before = champion.version if champion else None
    return Promotion(
        outcome="refused" if refused else "promoted",
        version=number,
        champion=before if refused else number,
        gates=gates,
    )


def facts_of(
    promotion: Promotion, candidate: Bundle, version: Version, before: str | None
) -> Facts:
    return Facts(
        version=version.number,
        before=before,
        reason="; ".join(promotion.reasons) or "it passed every gate",
        gates=promotion.gates,
        data_sha256=candidate.manifest.data_sha256,
        bundle_sha256=candidate.sha256,
        git_commit=version.tags.get("git_commit"),
        dvc_lock=version.tags.get("dvc_lock"),
    )


def decide(
    registry: Registry, log: AuditLog, promotion: Promotion, facts: Facts, seen: Seen
) -> None:
    """Write down what the gates say, in the audit log first, and carry it out."""
    number = facts.version
    registry.set_tag(number, "gates", json.dumps([asdict(result) for result in facts.gates]))
    if promotion.outcome == "refused":
        line = log.append("refused", facts)
        registry.set_alias("challenger", number)
        registry.set_tag(number, "refused", facts.reason)
        registry.set_tag(number, SETTLED, line.sha256)
    else:
        log.append("promoted", facts, seen)
        settle(registry, log)
        # It was compared with the former champion.
        shutil.rmtree(load_settings().challenger, ignore_errors=True)


def log_card(client: MlflowClient, version: Version, folder: Path) -> None:
    """Log the model card with the gates' results to the version's run."""
    if open_bundle(folder).version == version.number:  # else another process has promoted its own
        for file in sorted(CARDS):
            place = f"card/version-{version.number}"
            client.log_artifact(version.run_id, str(folder / file), place)


def register(client: MlflowClient, registry: Registry, bundle: Bundle) -> Version:
    """Register the bundle as a version of the model, once, with the bundle among its files."""
    run_id = runs.record_training(client)
    if known := registry.of_bundle(bundle.sha256):
        return known
    client.log_artifacts(run_id, str(bundle.folder), f"bundle/{bundle.sha256[:12]}")
    uri = client.get_run(run_id).data.tags["model_uri"]
    tags = {"bundle_sha256": bundle.sha256, **lineage()}
    made = mlflow.register_model(uri, registry.name, tags=tags)
    first = registry.of_bundle(bundle.sha256)
    if first is None:
        raise Failure(f"the registry has lost version {made.version}: run this again")
    if first.number != str(made.version):  # another process has registered it at the same time
        client.delete_model_version(registry.name, made.version)
    return first


def check_inputs(candidate: Bundle) -> None:
    """Raise a Failure if the work tree is no longer what the candidate was made from."""
    made = candidate.manifest
    known = made.inputs_sha256.items()
    changed = [name for name, digest in known if files.sha256(Path(name)) != digest]
    if made.params != dump(load_params(), SECTIONS):
        changed.append(PARAMS.name)
    if changed:
        raise Failure(f"{BUNDLE} was not made from this {changed[0]}: run `uv run dvc repro`")


def find_commit(registry: Registry, log: AuditLog, version: Version) -> Version:
    """Give a version of uncommitted changes its commit, once there is one; `reproduce` tests it."""
    if not (version.tags.get("git_commit") or "-dirty").endswith("-dirty"):
        return version
    found = lineage()
    if not found["git_commit"] or found["git_commit"].endswith("-dirty"):
        note = "note: this version holds uncommitted changes; commit them, then promote again"
        print(note, file=sys.stderr)
        return version
    for key, value in found.items():
        registry.set_tag(version.number, key, value)
    reason = "what it was made from is in this commit now"
    facts = Facts.model_validate(found | {"version": version.number, "reason": reason})
    log.append("committed", facts)
    return registry.by_number(version.number) or version


def check_not_rolled_back(version: Version) -> None:
    """Raise a Refusal for a version that was champion, and was rolled back."""
    if when := version.tags.get("rolled_back"):
        back = f"train another one, or return to it by `rollback {version.number}`"
        raise Refusal(f"version {version.number} was rolled back: {when.strip()}; {back}")


def print_gates(results: list[GateResult]) -> None:
    """Print what the gates say, and what to try; nothing if they were not asked."""
    if not results:
        return
    table = Table("gate", "measure", "value", "limit", "result", title="Gates")
    for result in results:
        value = "" if result.value is None else f"{result.value:.4g}"
        row = (result.gate, result.measure, value, result.limit)
        table.add_row(*map(escape, row), WORDS[result.passed])
    console = open_console()
    console.print(table)
    for line in advices(results):
        console.print(f"what to try: {escape(line)}", soft_wrap=True)
