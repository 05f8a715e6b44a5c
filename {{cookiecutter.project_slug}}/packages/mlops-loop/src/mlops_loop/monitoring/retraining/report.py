"""Report: what a retraining decided and what came of it, as Markdown for a pull request."""

from datetime import datetime

from mlops_loop.base import files
from mlops_loop.base.files import BUNDLE, PARAMS
from mlops_loop.base.project import current_project
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.monitoring.retraining.decision import recent_runs
from mlops_loop.monitoring.retraining.summary import (
    FOLDER,
    RetrainingSummary,
    WindowTrend,
    write_json,
)
from mlops_loop.reporting.markdown import format_number, line_chart, text_table

HEADLINES = {
    "promoted": "version {version} is the new champion",
    "refused": "the gates refused the candidate",
    "nothing new": "the pipeline gives what is champion already",
    "failed": "it failed",
    "declined": "no retraining was needed, or allowed",
}
GATE_WORDS = {True: "passed", False: "**REFUSED**", None: "not judged"}


def write(summary: RetrainingSummary) -> None:
    """Write reports/retrain/summary.json and summary.md."""
    write_json(summary)
    files.write_text(FOLDER / "summary.md", markdown(summary))
    print(f"summary: {FOLDER}/summary.md")


def markdown(summary: RetrainingSummary) -> str:
    """Return why, on what, how good, what the gates say, and how to undo it."""
    headline = HEADLINES[summary.result].format(version=summary.version)
    grounds = [f"- for: {text}" for text in summary.decision.reasons]
    grounds += [f"- against: {text}" for text in summary.decision.against]
    parts = [
        f"# Retraining of {summary.model} until {summary.until}: {headline}",
        outcome(summary),
        "## Why",
        "\n".join(grounds) or "Nothing asks for it.",
        evidence_table(summary),
    ]
    if summary.parts:
        rows = [
            [name, part.first or "", part.last or "", f"{part.rows:,}"]
            for name, part in summary.parts.items()
        ]
        parts += ["## Windows", text_table(["window", "first", "last", "rows"], rows)]
    if summary.metrics:
        parts += ["## On the newest labelled window", metrics_table(summary.metrics)]
    if summary.gates:
        parts += ["## Gates", gates_table(summary.gates)]
    if plots := charts(summary.monitor, summary.metric):
        parts += ["## What the monitor found", *plots]
    if summary.version:
        parts += ["## Lineage", lineage_table(summary)]
    return "\n\n".join([*filter(None, parts), "## Next steps", advice(summary)]) + "\n"


def outcome(summary: RetrainingSummary) -> str:
    before = summary.before or summary.evidence.champion
    former = f"version {before}" if before else "none"
    if summary.result == "promoted":
        return f"It passed every gate that was asked. The champion before was {former}."
    if summary.result == "nothing new":
        same = "code, data and parameters give the same bundle"
        return f"The champion stays {former}: {same}."
    return f"The champion stays {former}. {summary.reason}".strip()


def evidence_table(summary: RetrainingSummary) -> str:
    """Return what was found, beside the limits in params.yaml."""
    found = summary.evidence
    limits = summary.limits

    def ago(day: datetime | None) -> str:
        return f"{(found.until - day).days} days before" if day else "never"

    rows = "not known" if found.rows is None else f"{found.rows:,}"
    newest = f"; the newest is of {found.newest.isoformat()}" if found.newest else ""
    last = found.retrained[-1] if found.retrained else None
    recent = recent_runs(found, limits.budget.days)
    budget = f"at most {limits.budget.runs} in {limits.budget.days} days"
    lines = [
        ["alarms of decay since", str(len(found.decay)), "any"],
        ["labelled rows since", rows + newest, f"{limits.new_rows:,}"],
        ["last trained on data until", ago(found.trained_through), f"{limits.every_days} days"],
        ["changed since", ", ".join(found.changed) or "nothing", "anything"],
        ["on demand", "no" if found.force_reason is None else "yes", "yes"],
        ["last retraining", ago(last), f"wait {limits.cooldown_days} days"],
        ["retrainings of late", str(recent), budget],
    ]
    return text_table(["evidence", "found", "limit"], lines)


def metrics_table(measured: dict[str, dict[str, float | None]]) -> str:
    names = [
        name
        for name in measured["candidate"]
        if name in measured["naive baseline"] and name != "rows"
    ]
    rows = [
        [name, *(format_number(metrics.get(name)) for metrics in measured.values())]
        for name in names
    ]
    return text_table(["metric", *measured], rows)


def gates_table(gates: list[GateResult]) -> str:
    rows = []
    for gate in gates:
        name = f"**{gate.gate}**" if gate.passed is False else gate.gate
        value = format_number(gate.value)
        rows.append([name, gate.measure, value, gate.limit, GATE_WORDS[gate.passed]])
    return text_table(["gate", "what", "value", "limit", "verdict"], rows)


def charts(windows: list[WindowTrend], metric: str) -> list[str]:
    """Return two charts over the windows."""
    found = []
    measured = [
        (f"{window.end:%Y-%m-%d}", window.value, window.reference)
        for window in windows
        if window.value is not None and window.reference is not None
    ]
    if measured:
        days, values, references = (list(column) for column in zip(*measured, strict=True))
        title = f"{metric} in each window, beside that of the version's test window"
        found.append(line_chart(title, metric, days, [values, references]))
    shares = [
        (f"{window.end:%Y-%m-%d}", window.drift_share)
        for window in windows
        if window.drift_share is not None
    ]
    if shares:
        title = "share of columns that drifted, which is no decay"
        days, values = (list(column) for column in zip(*shares, strict=True))
        found.append(line_chart(title, "share", days, [values], span=(0, 1)))
    return found


def lineage_table(summary: RetrainingSummary) -> str:
    facts = {
        "version": summary.version,
        "git commit": summary.git_commit or "none: it was made outside of git",
        "dvc.lock, SHA-256": summary.dvc_lock or "none",
        "bundle.json, SHA-256": summary.bundle_sha256,
        **{f"{name}, SHA-256": value for name, value in (summary.data_sha256 or {}).items()},
    }
    return text_table(["what", "which"], [[name, f"`{value}`"] for name, value in facts.items()])


def advice(summary: RetrainingSummary) -> str:
    """Return what to do next, or how to undo what was done."""
    command = f"uv run {current_project().name}"
    undo = f"`git restore {PARAMS} dvc.lock reports` puts the former windows back"
    forced = f"`{command} retrain --force --reason '...'`"
    return {
        "promoted": f"Commit {PARAMS}, dvc.lock and reports/, so that a commit holds what the "
        f"version was made from. Should it turn out bad, `{command} rollback --reason '...'` "
        "makes the former champion champion again; running servers follow.",
        "refused": f"The candidate is in {BUNDLE}, and in the registry as a challenger. {undo}. "
        "If the gate `labels` refused: are the window's labels right? If not, correct them at the "
        "source. If they are, and the world did change so much, a person decides: "
        f"`gates.labels: null` in {PARAMS}, then `{command} promote`.",
        "nothing new": f"Nothing. {undo}.",
        "failed": f"Mend what is named above, then run {forced}.",
        "declined": f"Nothing. To retrain all the same: {forced}.",
    }[summary.result]
