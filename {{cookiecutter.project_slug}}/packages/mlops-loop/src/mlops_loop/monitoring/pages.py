"""Pages: what the monitor found, one for each window and an index over all; they need no network."""

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.reporting import page

Summary = dict[str, Any]
COLOURS = {"now": "#1f6feb", "before": "#8b949e", "limit": "#cf222e", "estimate": "#bf8700"}
BADGES = {"drift": "#9a6700", "quality": "#bc4c00", "decay": "#cf222e"}
LONG = (
    1_000_000  # letters from which on a script of Evidently's report is its library, not its data
)
KEPT = 6  # newest windows that keep Evidently's own report, about a megabyte each
STYLE = """<style>
:root { color-scheme: light } body { color: #1f2328; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem 2rem }
figure { margin: 0 } svg { max-width: 100%; height: auto } h2 { margin: 2rem 0 .5rem; font-size: 1.2rem }
.badge { border-radius: 1em; color: #fff; padding: .1em .7em; font-size: .85em; margin-right: .3em }
.scroll { overflow-x: auto }
td a, .badge { white-space: nowrap } .quiet { color: #59636e } tr.alarm td { background: #fff1e5 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
@media (max-width: 40rem) { main { grid-template-columns: 1fr } }
</style>"""


def badges(verdicts: Iterable[str]) -> str:
    found = [
        f'<span class="badge" style="background:{BADGES[name]}">{name}</span>' for name in verdicts
    ]
    return (
        "".join(found) or '<span class="badge" style="background:#1a7f37">nothing to report</span>'
    )


def shown(value: Any) -> str:
    """Return a value as text: few digits, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], marked: Callable[[int], bool] | None = None
) -> str:
    """Return an HTML table; a cell that begins with < is HTML already. `marked` rows stand out."""

    def cell(value: Any) -> str:
        text = shown(value)
        kind = ' class="number"' if isinstance(value, int | float) else ""
        return f"<td{kind}>{text if text.startswith('<') else escape(text)}</td>"

    lines = []
    for number, row in enumerate(rows):
        mark = ' class="alarm"' if marked and marked(number) else ""
        lines.append(f"<tr{mark}>{''.join(map(cell, row))}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def picture(draw: Callable[[Any], None], title: str, height: float = 2.6) -> str:
    """Return a figure as SVG text, with its title; `draw` gets the axes."""
    figure = Figure(figsize=(6.2, height), layout="tight")
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10)
    text = StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    ):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return f"<figure>{unique(body, title)}</figure>"


def unique(svg: str, title: str) -> str:
    """Return an SVG whose ids no other one on the page has, named for those who do not see it."""
    mark = sha256(title.encode()).hexdigest()[:8]
    svg = re.sub(r'((?:id|xlink:href|clip-path)="(?:#|url\(#)?)(?=\w)', rf"\g<1>{mark}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def metric_of(summary: Summary, name: str) -> dict[str, Any]:
    """Return the numbers of a metric in a window; none if its outcomes were too few."""
    found: dict[str, Any] = ((summary["performance"] or {}).get("metrics") or {}).get(name, {})
    return found


# One window


def write_window(folder: Path, summary: Summary, schema: Schema, report: Any) -> None:
    """Write a window's page, and Evidently's report if there is one."""
    drift, quality = summary["drift"], summary["quality"]
    version = f"version {summary['model_version']} of {summary['model']}"
    times = (
        f"{summary['start'][:16].replace('T', ' ')} to {summary['end'][:16].replace('T', ' ')} UTC"
    )
    parts = [
        STYLE,
        f'<p><a href="../index.html">All windows</a> · {escape(version)} · {escape(times)} · '
        f"{summary['rows']:,} predictions in {summary['requests']:,} requests</p>",
        f"<p>{badges(summary['verdicts'])}</p>",
    ]
    if summary["alarms"]:
        told = [(a["rule"], a["text"], a["value"], a["limit"]) for a in summary["alarms"]]
        parts += ["<h2>Alarms</h2>", table(("rule", "what", "value", "limit"), told)]
    if summary["not_judged"]:
        parts += ["<h2>Not judged</h2>", table(("what", "why"), summary["not_judged"].items())]
    parts += [*performance(summary, schema), "<h2>Drift</h2>"]
    if drift:
        ordered = sorted(drift["columns"].items(), key=lambda item: -ratio(item[1]))
        parts.append(
            f"<main>{picture(lambda axes: bars(axes, ordered), 'Distance, in thresholds', 4)}</main>"
        )
        lines = [
            (name, c["method"], c["score"], c["threshold"], "drifted" if c["drifted"] else "")
            for name, c in ordered
        ]
        heads = ("column", "measured as", "distance", "threshold", "")
        parts.append(table(heads, lines, lambda place: bool(ordered[place][1]["drifted"])))
        parts.append(
            '<p class="quiet">A threshold is how far stretches of the reference, as long as this window, '
            "are from the rest of it.</p>"
        )
    if report is not None:
        write_report(folder, report)
        parts.append(
            '<p><a href="evidently.html">Evidently\'s own report</a>, in the newest windows</p>'
        )
    parts += ["<h2>Data quality</h2>", *told_quality(quality)]
    page.write_page(folder / "index.html", f"Window {summary['window']}", *parts)


def ratio(column: dict[str, Any]) -> float:
    """Return a column's distance in thresholds."""
    if column["score"] is None:
        return 2.0 if column["drifted"] else 0.0
    return float(column["score"] / column["threshold"])


def bars(axes: Any, ordered: list[tuple[str, dict[str, Any]]]) -> None:
    shown = ordered[:20][::-1]
    colours = [COLOURS["limit"] if c["drifted"] else COLOURS["before"] for _, c in shown]
    axes.barh([name[:24] for name, _ in shown], [min(ratio(c), 5) for _, c in shown], color=colours)
    axes.axvline(1, color=COLOURS["limit"], linewidth=1)
    axes.tick_params(labelsize=8)


def performance(summary: Summary, schema: Schema) -> list[str]:
    """Return what is known of the answers' quality, and what was estimated of it."""
    found, estimate = summary["performance"] or {}, summary["estimate"] or {}
    told = f"{found.get('labelled', 0):,} outcomes are known, of {found.get('coverage', 0):.0%} of the rows"
    if "delay_days" in found:
        told += ", after {median:.3g} days in the median, 95 % of them after {p95:.3g}".format(
            **found["delay_days"]
        )
    parts = ["<h2>Performance</h2>", f"<p>{told}.</p>"]
    names = list(dict.fromkeys([*found.get("metrics", {}), *estimate]))
    lines = []
    for name in names:
        numbers, guess = found.get("metrics", {}).get(name, {}), estimate.get(name, {})
        ends = (numbers.get("low"), numbers.get("high"))
        off = None
        if None not in (numbers.get("value"), guess.get("value")):
            off = guess["value"] - numbers["value"]
        lines.append(
            (name, numbers.get("value"), *ends, numbers.get("reference"), guess.get("value"), off)
        )
    if lines:
        heads = (
            "metric",
            "measured",
            "low",
            "high",
            "on the test window",
            "estimated",
            "estimate is off by",
        )
        parts.append(table(heads, lines))
        parts.append(
            '<p class="quiet">The estimate needs no outcomes: it takes the model\'s promises for true, '
            "and cannot see that the world changed.</p>"
        )
    if "calibration_error" in found:
        numbers = found["calibration_error"]
        kinds = ("calibration", "value", "on the test window", "limit")
        parts.append(
            table(
                kinds,
                [(numbers["measure"], numbers["value"], numbers["reference"], numbers["limit"])],
            )
        )
        drawn = picture(lambda axes: calibrated(axes, found["calibration"], schema), "Calibration")
        parts.append(f"<main>{drawn}</main>")
    if found.get("slices"):
        columns = list(found["slices"][0])
        rows = [[line.get(column) for column in columns] for line in found["slices"]]
        parts += ["<h3>By slice</h3>", table(columns, rows)]
    return parts


def calibrated(axes: Any, curve: list[dict[str, float]], schema: Schema) -> None:
    if not curve:  # all predictions are equal
        return
    predicted, observed = ([point[key] for point in curve] for key in ("predicted", "observed"))
    axes.plot(predicted, observed, marker="o", color=COLOURS["now"])
    middle = sum(predicted) / len(predicted)
    axes.axline((middle, middle), slope=1, color=COLOURS["before"], linestyle=":")
    axes.set(xlabel=f"predicted: {schema.positive or schema.target}", ylabel="observed")


def told_quality(quality: dict[str, Any]) -> list[str]:
    """Return the tables of refusals, volume, and what is missing or unknown."""
    refused, volume = quality["refused"], quality["volume"]
    usual = "nobody knows yet" if volume["usual"] is None else f"{volume['usual']:,.0f}"
    places = (
        ", ".join(f"{place}: {count:,}" for place, count in refused["places"].items()) or "none"
    )
    lines = [
        (
            "requests refused",
            refused["share"],
            refused["limit"],
            f"{refused['requests']:,}; {places}",
        ),
        ("rows", volume["rows"], None, f"usual: {usual}"),
    ]
    for what, key in (("missing in", "nulls"), ("unknown categories in", "unseen")):
        for name, numbers in quality.get(key, {}).items():
            told = f"in what was learned {numbers['reference']:.2%}"
            lines.append((f"{what} {name}", numbers["share"], numbers["limit"], told))
    for name, share in quality.get("outside", {}).items():
        if share:
            lines.append(
                (f"beyond what was learned of {name}", share, None, "no alarm: seasons do this")
            )
    broken = [limit is not None and value > limit for _, value, limit, _ in lines]
    return [table(("what", "share", "limit", ""), lines, lambda place: broken[place])]


def write_report(folder: Path, report: Any) -> None:
    """Write Evidently's report, with its library in a file that all windows share: it has 3.5 MB."""
    page = report.get_html_str(as_iframe=False)
    for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL):
        if len(script) > LONG and not script.lstrip().startswith("var metric"):
            name = f"evidently-{sha256(script.encode()).hexdigest()[:12]}.js"
            shared = (
                folder.parent.parent / name
            )  # of FOLDER: the window is written beside its place
            if not shared.exists():
                files.write_text(shared, script)
            page = page.replace(f"<script>{script}</script>", f'<script src="../{name}"></script>')
    (folder / "evidently.html").write_text(page, encoding="utf-8")


# All windows


def write_index(folder: Path, summaries: list[Summary], schema: Schema) -> None:
    """Write the page over all windows, and drop Evidently's report of all but the newest."""
    name = next(iter(tasks.of(schema).GATE_METRICS))
    latest, kept = summaries[-1], [summary["window"] for summary in summaries[-KEPT:]]
    for path in folder.glob("*/evidently.html"):
        if path.parent.name not in kept:
            path.unlink()
    pictures = [
        picture(
            lambda axes: quality_over_time(axes, summaries, name),
            f"{name}: measured, promised, estimated",
        ),
        picture(
            lambda axes: errors_over_time(axes, summaries),
            "Calibration error, and where it is too much",
        ),
        picture(lambda axes: drift_over_time(axes, summaries), "Share of columns that drifted"),
        picture(
            lambda axes: rows_over_time(axes, summaries), "Predictions, and those with an outcome"
        ),
    ]
    rows = []
    for summary in reversed(summaries):
        there = (folder / summary["window"] / "index.html").is_file()
        window = escape(summary["window"])
        link = f'<a href="{window}/index.html">{window}</a>' if there else f"<span>{window}</span>"
        numbers, drift = metric_of(summary, name), summary["drift"] or {}
        coverage = f"{(summary['performance'] or {}).get('coverage', 0):.0%}"
        rules = ", ".join(a["rule"].partition(": ")[2] for a in summary["alarms"])
        rows.append(
            (
                link,
                summary["model_version"],
                summary["rows"],
                coverage,
                numbers.get("value"),
                numbers.get("reference"),
                drift.get("share"),
                f"<span>{badges(summary['verdicts'])}</span>",
                rules,
            )
        )
    heads = (
        "window",
        "version",
        "rows",
        "with outcome",
        name,
        "on the test window",
        "drifted",
        "",
        "alarms",
    )
    page.write_page(
        folder / "index.html",
        f"{latest['model']}: what the monitor found",
        STYLE,
        f"<p>The newest of {len(summaries)}, {escape(latest['window'])}: {badges(latest['verdicts'])}</p>",
        f"<main>{''.join(pictures)}</main>",
        table(heads, rows),
    )


def ticks(axes: Any, summaries: list[Summary]) -> list[int]:
    """Label the x axis with the windows' ends, few of them if they are many; return their places."""
    places, step = list(range(len(summaries))), max(1, len(summaries) // 8)
    axes.set_xticks(
        places[::step], [summary["start"][2:10] for summary in summaries][::step], fontsize=8
    )
    axes.tick_params(labelsize=8)
    return places


def known(places: list[int], values: Iterable[Any]) -> tuple[list[int], list[Any]]:
    """Return the places and values that there are."""
    pairs = [
        (place, value) for place, value in zip(places, values, strict=True) if value is not None
    ]
    return [place for place, _ in pairs], [value for _, value in pairs]


def quality_over_time(axes: Any, summaries: list[Summary], name: str) -> None:
    places = ticks(axes, summaries)
    found = [metric_of(summary, name) for summary in summaries]
    for place, numbers in enumerate(found):
        if None not in (numbers.get("low"), numbers.get("high")):
            axes.vlines(
                place, numbers["low"], numbers["high"], color=COLOURS["now"], linewidth=3, alpha=0.3
            )
    for label, values, colour, style in (
        ("measured", [numbers.get("value") for numbers in found], "now", "o-"),
        ("on the test window", [numbers.get("reference") for numbers in found], "before", "_:"),
        (
            "estimated",
            [(s["estimate"] or {}).get(name, {}).get("value") for s in summaries],
            "estimate",
            "x--",
        ),
    ):
        axes.plot(*known(places, values), style, color=COLOURS[colour], label=label, markersize=5)
    axes.legend(fontsize=8, frameon=False)


def errors_over_time(axes: Any, summaries: list[Summary]) -> None:
    places = ticks(axes, summaries)
    found = [(summary["performance"] or {}).get("calibration_error", {}) for summary in summaries]
    axes.plot(
        *known(places, [numbers.get("value") for numbers in found]), "o-", color=COLOURS["now"]
    )
    axes.plot(
        *known(places, [numbers.get("limit") for numbers in found]), ":", color=COLOURS["limit"]
    )
    axes.set_ylim(bottom=0)


def drift_over_time(axes: Any, summaries: list[Summary]) -> None:
    places = ticks(axes, summaries)
    axes.bar(
        *known(places, [(summary["drift"] or {}).get("share") for summary in summaries]),
        color=COLOURS["now"],
    )
    axes.set_ylim(0, 1)


def rows_over_time(axes: Any, summaries: list[Summary]) -> None:
    places = ticks(axes, summaries)
    axes.bar(places, [summary["rows"] for summary in summaries], color=COLOURS["before"])
    labelled = [(summary["performance"] or {}).get("labelled", 0) for summary in summaries]
    axes.bar(places, labelled, color=COLOURS["now"], width=0.5)
