"""Report: what a retraining decided and what came of it, as Markdown for a pull request.

The text is `retraining.md` among the templates of `reporting`.
"""

from datetime import datetime

from mlops_loop.base import files
from mlops_loop.base.project import current_project
from mlops_loop.monitoring.retraining.decision import recent_runs
from mlops_loop.monitoring.retraining.summary import (
    FOLDER,
    RetrainingSummary,
    WindowTrend,
    write_json,
)
from mlops_loop.reporting import markdown, page
from mlops_loop.reporting.formats import moment, number
from mlops_loop.reporting.markdown import Markdown, Row, line_chart, to_html
from mlops_loop.training.card.promotion import gate_rows

HEADLINES = {
    "promoted": "version {version} is the new champion",
    "refused": "the gates refused the candidate",
    "nothing new": "the pipeline gives what is champion already",
    "failed": "it failed",
    "declined": "no retraining was needed, or allowed",
}
FEWEST = 3  # points of a chart


def write(summary: RetrainingSummary) -> None:
    """Write summary.json, summary.md and summary.html in reports/retrain.

    The page has no charts: those are on the monitor's page, to which it links.
    """
    write_json(summary)
    files.write_text(FOLDER / "summary.md", text(summary, charts(summary)))
    path = page.PAGES["Retraining"]
    body = to_html(text(summary, []))
    facts = [f"until {summary.until}", summary.result]
    html = page.compose(path, "document.html", title="Retraining", facts=facts, body=body)
    files.write_text(path, html)
    page.write_overview()
    print(f"summary: {FOLDER}/summary.md")


def text(summary: RetrainingSummary, drawn: list[Markdown]) -> str:
    """Return why, on what, how good, what the gates say, and how to undo it."""
    return markdown.render(
        "retraining.md",
        project=current_project().name,
        headline=HEADLINES[summary.result].format(version=summary.version),
        summary=summary,
        found=summary.evidence,
        evidence=evidence(summary),
        windows=[
            [name, *(moment(end) if end else "" for end in (part.first, part.last)), part.rows]
            for name, part in (summary.parts or {}).items()
        ],
        metrics=metrics(summary.metrics or {}),
        gates=gate_rows(summary.gates or ()),
        charts=drawn,
    )


def evidence(summary: RetrainingSummary) -> list[Row]:
    """Return what was found, beside the limits in params.yaml."""
    found = summary.evidence
    limits = summary.limits

    def ago(day: datetime | None) -> str:
        return f"{(found.until - day).days} days before" if day else "never"

    rows = "not known" if found.rows is None else f"{found.rows:,}"
    newest = f"; the newest is of {moment(found.newest)}" if found.newest else ""
    last = found.retrained[-1] if found.retrained else None
    recent = recent_runs(found, limits.budget.days)
    budget = f"at most {limits.budget.runs} in {limits.budget.days} days"
    return [
        ["alarms of decay since", str(len(found.decay)), "any"],
        ["labelled rows since", rows + newest, f"{limits.new_rows:,}"],
        ["last trained on data until", ago(found.trained_through), f"{limits.every_days} days"],
        ["changed since", ", ".join(found.changed) or "nothing", "anything"],
        ["on demand", "no" if found.force_reason is None else "yes", "yes"],
        ["last retraining", ago(last), f"wait {limits.cooldown_days} days"],
        ["retrainings of late", str(recent), budget],
    ]


def metrics(measured: dict[str, dict[str, float | None]]) -> list[Row]:
    baseline = measured.get("naive baseline", {})
    names = [name for name in measured.get("candidate", {}) if name in baseline and name != "rows"]
    return [[name, *(number(values.get(name)) for values in measured.values())] for name in names]


def charts(summary: RetrainingSummary) -> list[Markdown]:
    """Return the charts that GitHub and GitLab draw."""
    title = f"{summary.metric} in each window, beside that of the version's test window"
    drift = "share of columns that drifted, which is no decay"
    found = [
        trend(summary.monitor, title, summary.metric, "value", "reference"),
        trend(summary.monitor, drift, "share", "drift_share"),
    ]
    return [chart for chart in found if chart]


def trend(windows: list[WindowTrend], title: str, axis: str, *fields: str) -> Markdown | None:
    """Return the chart of some fields of the windows that have them; None for too few."""
    rows = [
        (f"{window.end:%Y-%m-%d}", *(getattr(window, name) for name in fields))
        for window in windows
    ]
    known = [row for row in rows if None not in row]
    if len(known) < FEWEST:
        return None
    days, *lines = (list(column) for column in zip(*known, strict=True))
    return line_chart(title, axis, days, lines)
