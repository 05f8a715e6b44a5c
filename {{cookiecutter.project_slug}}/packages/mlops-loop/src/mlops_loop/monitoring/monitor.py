"""Monitor: evaluate a window of the prediction log, write what it shows, and alert.

Drift and poor data alert people. Only decay, which ground truth shows, is a reason to retrain.
"""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.params import load_params
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.monitoring import alerts, data_quality, drift, pages, performance
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.evidently_report import FILE, evidently_report
from mlops_loop.monitoring.monitoring_window import logged_features, read_window, window_name
from mlops_loop.monitoring.window_store import store, stored_summaries
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.window_summary import NOT_JUDGED, VERDICTS, WindowSummary
from mlops_loop.scoring.bundle import Bundle, open_bundle

CHECKS = {"quality": data_quality.check, "drift": drift.check, "performance": performance.check}
LATEST = pages.FOLDER / "latest.json"


def main(days: float | None = None, until: datetime | None = None, evidently: bool = False) -> None:
    """Monitor, print and alert; raise a Refusal if there is a verdict, or nothing was judged."""
    summary = monitor(days, until, evidently)
    settings = load_settings()
    delivery = alerts.notify(open_log(settings.prediction_log_url), settings, summary)
    print("\n".join([*format_summary(summary), *delivery.lines]))
    if delivery.undelivered:
        text = "not delivered; the next run tells the services again"
        print(f"error: {text}: {delivery.undelivered}", file=sys.stderr)
    if summary.verdicts:
        raise Refusal(f"{summary.state}: see {summary.report}")
    if summary.state == NOT_JUDGED:
        raise Refusal(f"{NOT_JUDGED}: no rule had enough to look at: see {summary.report}")
    print(f"{summary.state}: see {summary.report}")
    if delivery.undelivered:
        raise Failure('No alerts; sending the "resolved" notification failed, will retry next run')


def monitor(
    days: float | None = None, until: datetime | None = None, evidently: bool = False
) -> WindowSummary:
    """Evaluate the last `days` (default: monitor.days) before `until`, UTC, or now.

    Writes reports/monitor/<window>/ and the index over all windows.
    """
    settings = load_settings()
    params = load_params()
    bundle = newest_champion(settings)
    now = datetime.now(UTC)
    end = (until or now).replace(tzinfo=UTC)
    if end > now + timedelta(minutes=1):
        text = f"--until {end:%Y-%m-%d %H:%M} is in the future: that window has not passed yet"
        raise Failure(text)
    start = end - timedelta(days=days or params.monitor.days)
    engine = open_log(settings.prediction_log_url)
    window = read_window(engine, start, end, bundle.version, bundle.schema, params.monitor.max_rows)
    found = Evaluation(window, bundle, params)
    summary = evaluate(found, settings.mlflow_experiment_name)
    document = summary.model_dump(mode="json")
    with files.writing(pages.FOLDER / summary.window) as tmp_path:
        tmp_path.mkdir()
        files.write_json(tmp_path / "summary.json", document)
        pages.write_window(tmp_path, summary, bundle.schema)
        if evidently and summary.drift:
            columns = summary.drift.columns
            least = params.monitor.drift_columns
            report = evidently_report(*drift.compared_tables(found), bundle.schema, columns, least)
            files.write_text(tmp_path / FILE, report.get_html_str(as_iframe=False))
    files.write_json(LATEST, document)
    store(engine, summary)
    pages.write_index(stored_summaries(engine, summary.model), bundle.schema)
    return summary


def evaluate(found: Evaluation, model: str) -> WindowSummary:
    """Return what the window shows of the champion's traffic; `model` is its registered name."""
    window = found.window
    if others := window.others:
        of = f"{others:,} of {others + found.sampled:,}"
        found.not_judged["other_contract"] = f"{of} are to the question of another contract"
    hidden = found.schema.features.keys() - set(logged_features(found.schema))
    if hidden:
        names = ", ".join(sorted(hidden))
        found.not_judged["pii"] = f"the log holds no pii columns: {names} are not compared"
    found.limits = drift.calibrated_limits(found)
    checked = {name: check(found) for name, check in CHECKS.items()}
    name = window_name(window.start, window.end)
    fired = {alarm.verdict for alarm in found.alarms}
    facts = {
        "window": name,
        "made": datetime.now(UTC),
        "model": model,
        "model_version": found.bundle.version,
        "sampled": found.sampled,
        "verdicts": [verdict for verdict in VERDICTS if verdict in fired],
        "alarms": found.alarms,
        "not_judged": found.not_judged,
        "report": (pages.FOLDER / name / "index.html").as_posix(),
    }
    return WindowSummary.model_validate({**vars(window), **facts, **checked})


def newest_champion(settings: Settings) -> Bundle:
    """Return the champion; a shared registry may have a newer one, of another machine."""
    folder = Path(settings.bundle)
    if not folder.exists() or not settings.mlflow_tracking_uri.startswith("sqlite:"):
        from mlops_loop.release.champion import install_champion  # not for a bundle at hand

        try:
            install_champion(settings)
        except Failure as failure:
            if not folder.exists():
                raise
            print(f"the champion in {folder} is taken for the newest: {failure}", file=sys.stderr)
    return open_bundle(folder)


def format_summary(summary: WindowSummary) -> Iterable[str]:
    """Yield the lines that say what a window shows."""
    span = f"{summary.start:%Y-%m-%dT%H:%M} to {summary.end:%Y-%m-%dT%H:%M} UTC"
    yield f"{summary.rows:,} predictions from {span}"
    for alarm in summary.alarms:
        yield f"{alarm.verdict}: {alarm.text}"
    for rule, why in summary.not_judged.items():
        yield f"not judged, {rule}: {why}"
