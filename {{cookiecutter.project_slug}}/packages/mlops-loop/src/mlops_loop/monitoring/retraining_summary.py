"""Summary: what a retraining decided and what came of it, as Markdown for a pull request and as JSON."""

from datetime import datetime
from typing import Any

from mlops_loop.base import files
from mlops_loop.base.files import BUNDLE, PARAMS, REPORTS
from mlops_loop.base.project import current_project

FOLDER = REPORTS / "retrain"
HEADLINES = {
    "promoted": "version {version} is the new champion",
    "refused": "the gates refused the candidate",
    "nothing new": "the pipeline gives what is champion already",
    "failed": "it came to nothing",
    "declined": "no retraining was needed, or allowed",
}
SHOWN = 24  # windows in a plot


def monitored(windows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Return of each window what is plotted: the metric as measured and as it was once, and the drift."""
    found = []
    for window in windows[-SHOWN:]:
        measured = ((window.get("performance") or {}).get("metrics") or {}).get(metric) or {}
        found.append(
            {
                "window": window["window"],
                "end": window["end"],
                "model_version": window["model_version"],
                "verdicts": window["verdicts"],
                metric: measured.get("value"),
                "reference": measured.get("reference"),
                "drift_share": (window.get("drift") or {}).get("share"),
            }
        )
    return found


def write(found: dict[str, Any]) -> None:
    """Write reports/retrain/summary.json and summary.md."""
    files.write_json(FOLDER / "summary.json", found)
    files.write_text(FOLDER / "summary.md", markdown(found))
    print(f"summary: {FOLDER}/summary.md")


def markdown(found: dict[str, Any]) -> str:
    """Return the summary for people: why, on what, how good, what the gates say, and how to undo it."""
    parts = [
        f"# Retraining of {found['model']} until {found['until']}: "
        + HEADLINES[found["result"]].format(version=found.get("version")),
        headline(found),
        "## Why",
        "\n".join(f"- {side}: {text}" for side in ("for", "against") for text in sides(found)[side])
        or "Nothing asks for it.",
        evidence(found),
    ]
    if found.get("parts"):
        rows = [
            [name, part["first"] or "", part["last"] or "", f"{part['rows']:,}"]
            for name, part in found["parts"].items()
        ]
        parts += ["## Windows", table(["window", "first", "last", "rows"], rows)]
    if found.get("metrics"):
        parts += ["## On the newest labelled window", metrics(found["metrics"])]
    if found.get("gates"):
        parts += ["## Gates", gates(found["gates"])]
    if plots := history(found["monitor"], found["metric"]):
        parts += ["## What the monitor saw", *plots]
    if found.get("version"):
        parts += ["## What it is made of", lineage(found)]
    return "\n\n".join(part for part in [*parts, "## What now", advice(found)] if part) + "\n"


def headline(found: dict[str, Any]) -> str:
    before = found.get("before") or found["evidence"]["champion"]
    former = f"version {before}" if before else "none"
    told = {
        "promoted": f"It passed every gate that was asked. The champion before was {former}.",
        "refused": f"The champion stays {former}. {found.get('reason', '')}",
        "nothing new": f"The champion stays {former}: code, data and parameters give the same bundle.",
    }
    return told.get(
        found["result"], f"The champion stays {former}. {found.get('reason', '')}"
    ).strip()


def sides(found: dict[str, Any]) -> dict[str, list[str]]:
    return {
        "for": list(found["decision"]["reasons"]),
        "against": list(found["decision"]["against"]),
    }


def evidence(found: dict[str, Any]) -> str:
    """Return the table of what was found, beside the limits in params.yaml."""
    known, limits = found["evidence"], found["limits"]
    until, budget = datetime.fromisoformat(found["until"]), limits["budget"]

    def ago(day: str | None) -> str:
        return f"{(until - datetime.fromisoformat(day)).days} days before" if day else "never"

    times = [datetime.fromisoformat(day) for day in known["retrained"]]
    recent = [time for time in times if (until - time).days < budget["days"]]
    rows = "not known" if known["rows"] is None else f"{known['rows']:,}"
    newest = f"; the newest is of {known['newest']}" if known["newest"] else ""
    lines = [
        ["alarms of decay since", str(len(known["decay"])), "any"],
        ["labelled rows since", rows + newest, f"{limits['new_rows']:,}"],
        ["last learned from data until", ago(known["learned_to"]), f"{limits['every_days']} days"],
        ["changed since", ", ".join(known["changed"]) or "nothing", "anything"],
        ["on demand", "no" if known["demand"] is None else "yes", "yes"],
        [
            "last retraining",
            ago((known["retrained"] or [None])[-1]),
            f"wait {limits['cooldown_days']} days",
        ],
        [
            "retrainings of late",
            str(len(recent)),
            f"at most {budget['runs']} in {budget['days']} days",
        ],
    ]
    return table(["evidence", "found", "limit"], lines)


def metrics(measured: dict[str, dict[str, float]]) -> str:
    names = [
        name
        for name in measured["candidate"]
        if name in measured["naive baseline"] and name != "rows"
    ]
    rows = [[name, *(number(of.get(name)) for of in measured.values())] for name in names]
    return table(["metric", *measured], rows)


def gates(verdicts: list[dict[str, Any]]) -> str:
    words = {True: "passed", False: "**REFUSED**", None: "not judged"}
    rows = []
    for line in verdicts:
        gate = f"**{line['gate']}**" if line["passed"] is False else line["gate"]
        rows.append(
            [gate, line["measure"], number(line["value"]), line["limit"], words[line["passed"]]]
        )
    return table(["gate", "what", "value", "limit", "verdict"], rows)


def history(windows: list[dict[str, Any]], metric: str) -> list[str]:
    """Return two plots over the windows, in the language of Mermaid that GitHub and GitLab draw."""
    plots = []
    judged = [line for line in windows if None not in (line[metric], line["reference"])]
    if judged:
        values = [[line[key] for line in judged] for key in (metric, "reference")]
        low, high = min(map(min, values)), max(map(max, values))
        room = 0.1 * (high - low) or 0.1 * abs(high) or 0.1
        title = f"{metric} in each window, beside that of the version's test window"
        plots.append(plot(title, metric, judged, (low - room, high + room), *values))
    if seen := [line for line in windows if line["drift_share"] is not None]:
        shares = [line["drift_share"] for line in seen]
        plots.append(
            plot("share of columns that drifted, which is no decay", "share", seen, (0, 1), shares)
        )
    return plots


def plot(
    title: str,
    axis: str,
    windows: list[dict[str, Any]],
    span: tuple[float, float],
    *lines: list[float],
) -> str:
    ends = ", ".join(f'"{line["end"][:10]}"' for line in windows)
    drawn = [f"    line [{', '.join(number(value) for value in values)}]" for values in lines]
    head = [f'    title "{title}"', f"    x-axis [{ends}]"]
    head += [f'    y-axis "{axis}" {number(span[0])} --> {number(span[1])}']
    return "\n".join(["```mermaid", "xychart-beta", *head, *drawn, "```"])


def lineage(found: dict[str, Any]) -> str:
    facts = {
        "version": found["version"],
        "git commit": found["git_commit"] or "none: it was made outside of git",
        "dvc.lock, SHA-256": found["dvc_lock"] or "none",
        "bundle.json, SHA-256": found["bundle_sha256"],
        **{f"{name}, SHA-256": value for name, value in (found["data_sha256"] or {}).items()},
    }
    return table(["what", "which"], [[name, f"`{value}`"] for name, value in facts.items()])


def advice(found: dict[str, Any]) -> str:
    """Return what is to be done next, or how what was done is undone."""
    kept = f"Commit {PARAMS}, dvc.lock and reports/, so that a commit holds what the version was made from"
    undo = f"`git restore {PARAMS} dvc.lock reports` puts the former windows back"
    told = {
        "promoted": f"{kept}. Should it turn out bad, `uv run {current_project().name} rollback --reason '...'` makes the "
        "former champion champion again; running servers follow.",
        "refused": f"The candidate is in {BUNDLE}, and in the registry as a challenger. {undo}. If the gate "
        "`labels` refused: are the window's labels right? If not, mend them at the source. If they are, and "
        f"the world did change so much, a person decides: `gates.labels: null` in {PARAMS}, then "
        f"`uv run {current_project().name} promote`.",
        "nothing new": f"Nothing. {undo}.",
        "failed": f"Mend what is named above, then `uv run {current_project().name} retrain --force --reason '...'`.",
        "declined": f"Nothing. Whoever knows better says so: `uv run {current_project().name} retrain --force --reason '...'`.",
    }
    return told[found["result"]]


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
