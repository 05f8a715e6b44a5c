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
from mlops_loop.monitoring import alerts
from mlops_loop.monitoring.evaluate_window import FOLDER, compared_tables, evaluate
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.monitoring_window import read_window
from mlops_loop.monitoring.pages import index_page, window_page
from mlops_loop.monitoring.pages.evidently_report import FILE, evidently_report
from mlops_loop.monitoring.window_store import store, stored_summaries
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.window_summary import NOT_JUDGED, WindowSummary
from mlops_loop.scoring.bundle import HELD_OUT, Bundle, open_bundle

LATEST = FOLDER / "latest.json"


def main(days: float | None = None, until: datetime | None = None, evidently: bool = False) -> None:
    """Monitor, print and alert; raise a Refusal if there is a verdict, or nothing was judged."""
    summary = monitor(days, until, evidently)
    settings = load_settings()
    delivery = alerts.notify(open_log(settings.prediction_log_url), settings, summary)
    print("\n".join([*format_summary(summary), *delivery.lines]))
    if delivery.undelivered:
        text = "the alert was not delivered, the next run tries again"
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
    if not (bundle.folder / HELD_OUT).is_file():
        raise Failure(f"{bundle.folder} is of an older version of this project: promote a new one")
    now = datetime.now(UTC)
    end = (until or now).replace(tzinfo=UTC)
    if end > now + timedelta(minutes=1):
        raise Failure(
            f"--until {end:%Y-%m-%d %H:%M} is in the future: that window has not passed yet"
        )
    start = end - timedelta(days=days or params.monitor.days)
    engine = open_log(settings.prediction_log_url)
    max_rows = params.monitor.max_rows
    window = read_window(engine, start, end, bundle.version, bundle.schema, max_rows)
    evaluation = Evaluation(window, bundle, params)
    summary = evaluate(evaluation, settings.mlflow_experiment_name)
    with files.writing(FOLDER / summary.window) as tmp_path:
        tmp_path.mkdir()
        files.write_json(tmp_path / "summary.json", summary.model_dump(mode="json"))
        window_page.write(tmp_path, summary, bundle.schema)
        if evidently and summary.drift:
            tables = compared_tables(evaluation)
            least = params.monitor.drift_columns
            report = evidently_report(*tables, bundle.schema, summary.drift.columns, least)
            files.write_text(tmp_path / FILE, report.get_html_str(as_iframe=False))
    files.write_json(LATEST, summary.model_dump(mode="json"))
    store(engine, summary)
    summaries = stored_summaries(engine, summary.model)
    index_page.write(FOLDER, summaries, bundle.schema, bundle.manifest.metrics)
    return summary


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
    metrics = summary.performance.metrics if summary.performance else None
    if "drift" in summary.verdicts and "decay" not in summary.verdicts and metrics:
        name, metric = next(iter(metrics.items()))
        if metric.value is not None and metric.reference is not None:
            then = f"on the test window {metric.reference:.4g}"
            yield f"drift, not decay: {name} {metric.value:.4g}, {then}"
