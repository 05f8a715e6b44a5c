"""Monitor: look at a window of the prediction log, and say what of it asks for a person or a new model.

Drift and poor data are told to people. Only decay, which outcomes show, is a reason to retrain.
"""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base import files
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import REPORTS
from mlops_loop.base.params import Monitor, Params, load_params
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.metrics import tasks
from mlops_loop.metrics.calibration import held_out_scores
from mlops_loop.monitoring import alerts, compare, drift, pages, performance
from mlops_loop.monitoring.monitoring_window import Window, features, logged, name_of, read_window
from mlops_loop.prediction_log.connection import open_log, unusable
from mlops_loop.prediction_log.tables import WINDOWS, lock_database
from mlops_loop.scoring.bundle import HELD_OUT, REFERENCE, Bundle, open_bundle
from mlops_loop.scoring.operating_point import OperatingPoint

FOLDER = REPORTS / "monitor"
LATEST = FOLDER / "latest.json"
VERDICTS = ("drift", "quality", "decay")
FEWEST = 10  # refused requests; fewer are no alarm, however few there are in all
BEFORE = 3  # windows before this one with enough rows, which say how many are usual


def alarm(
    verdict: str, about: str, value: float | None, limit: float | None, text: str
) -> dict[str, Any]:
    return {
        "rule": f"{verdict}: {about}",
        "verdict": verdict,
        "value": value,
        "limit": limit,
        "text": text,
    }


def drifted(columns: dict[str, dict[str, Any]], params: Monitor) -> list[dict[str, Any]]:
    """Return an alarm for each column that has drifted, if they are enough."""
    found = []
    for name, column in columns.items():
        text = f"{name} has no value at all here or in the reference"
        if column["score"] is not None:
            apart, within = f"{column['score']:.3g}", f"{column['threshold']:.3g}"
            text = f"{name} is {apart} from what was learned; when nothing is wrong it is within {within}"
        if column["drifted"]:
            found.append(alarm("drift", name, column["score"], column["threshold"], text))
    return found if len(found) >= params.drift_columns else []


def nulls(
    current: pd.DataFrame, reference: pd.DataFrame, limits: pd.Series
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the shares of missing values, and an alarm where they rose by more than the limit."""
    table, found = dict[str, Any](), []
    for name in current:
        now, before = float(current[name].isna().mean()), float(reference[name].isna().mean())
        limit = before + float(limits[drift.nulls_of(name)])
        table[name] = {"share": now, "reference": before, "limit": limit}
        if now > limit:
            text = f"{now:.1%} of {name} are missing, in what was learned {before:.1%}"
            found.append(alarm("quality", f"nulls in {name}", now, limit, text))
    return table, found


def unseen(
    current: pd.DataFrame, reference: pd.DataFrame, schema: Schema, params: Monitor
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the shares of categories that the contract does not list, and an alarm where they are many."""
    table, found = dict[str, Any](), []
    for name in current:
        if not (categories := schema.features[name].categories):
            continue
        new = {
            side: values.dropna()[~values.dropna().isin(categories)]
            for side, values in (("share", current[name]), ("reference", reference[name]))
        }
        shares = {
            side: len(new[side]) / max(1, len(part))
            for side, part in (("share", current), ("reference", reference))
        }
        limit = shares["reference"] + params.quality.max_unseen
        table[name] = {**shares, "limit": limit}
        if shares["share"] > limit:
            text = f"{shares['share']:.1%} of {name} are categories that the contract does not list"
            found.append(alarm("quality", f"unseen in {name}", shares["share"], limit, text))
    return table, found


def outside(current: pd.DataFrame, reference: pd.DataFrame, schema: Schema) -> dict[str, float]:
    """Return the share of numbers that are below or above all that was learned. Seasons do this: no alarm."""
    found = {}
    for name in [name for name in current if name in schema.numeric]:
        low, high = reference[name].min(), reference[name].max()
        found[name] = float(((current[name] < low) | (current[name] > high)).mean())
    return found


def refused(window: Window, params: Monitor) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return how many requests were refused and where, and an alarm if they are too many."""
    count, limit = sum(window.refused.values()), params.quality.max_refused
    share, places = count / max(1, count + window.requests), dict[str, int]()
    for (kind, place), number in sorted(window.refused.items(), key=lambda item: -item[1]):
        named = place or kind
        places[named] = places.get(named, 0) + number
    table = {"requests": count, "share": share, "limit": limit, "places": places}
    if count < FEWEST or share <= limit:
        return table, []
    most = ", ".join(f"{place} {number:,}" for place, number in list(places.items())[:3])
    text = f"{share:.1%} of the requests were refused: {most}"
    return table, [alarm("quality", "refused requests", share, limit, text)]


def volume(window: Window, params: Monitor) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return rows and what is usual, None if nobody knows; and an alarm if they are far from it."""
    seen = [rows for rows in window.earlier if rows >= params.min_rows]
    usual = float(np.median(seen)) if len(seen) >= BEFORE else None
    limits = params.quality.volume
    table = {"rows": window.rows, "usual": usual, "limits": list(limits)}
    if usual is None or limits[0] * usual <= window.rows <= limits[1] * usual:
        return table, []
    text = f"{window.rows:,} rows, usual are {usual:,.0f}"
    limit = limits[0 if window.rows < usual else 1] * usual
    return table, [alarm("quality", "volume", window.rows, limit, text)]


def decayed(found: dict[str, Any], schema: Schema, params: Monitor) -> list[dict[str, Any]]:
    """Return an alarm for each metric of the gates that surely fell too far, and for the calibration."""
    alarms, limit, wrong = [], params.decay.max_drop, found["calibration_error"]
    for name in tasks.of(schema).GATE_METRICS:
        numbers = found["metrics"].get(name, {})
        if (numbers.get("drop") or 0) > limit:
            text = "{} {value:.4g} ({low:.4g} to {high:.4g}), on the test window {reference:.4g}"
            text += f": surely worse by {numbers['drop']:.1%}"
            alarms.append(
                alarm("decay", name, numbers["drop"], limit, text.format(name, **numbers))
            )
    if wrong["worse"]:
        text = (
            f"{wrong['measure']} {wrong['value']:.3g}, on the test window {wrong['reference']:.3g}"
        )
        alarms.append(alarm("decay", "calibration", wrong["value"], wrong["limit"], text))
    return alarms


def look(
    window: Window, bundle: Bundle, params: Params
) -> tuple[dict[str, Any], dict[str, str], list[dict[str, Any]], Any]:
    """Return findings, what could not be judged and why, alarms, and Evidently's report."""
    schema, monitor = bundle.schema, params.monitor
    reference, held_out = (
        tables.read_table(bundle.folder / name) for name in (REFERENCE, HELD_OUT)
    )
    not_judged, report = dict[str, str](), None
    quality: dict[str, Any] = {}
    quality["refused"], alarms = refused(window, monitor)
    quality["volume"], more = volume(window, monitor)
    alarms += more
    if quality["volume"]["usual"] is None:
        not_judged["quality: volume"] = (
            f"it takes {BEFORE} windows before this one to know what is usual"
        )
    if window.others:
        sampled = window.others + len(window.answered)
        not_judged["other answers"] = (
            f"{window.others:,} of {sampled:,} are to the question of another contract"
        )
    found: dict[str, Any] = {"drift": None, "performance": None, "estimate": None}
    if len(window.answered) < monitor.min_rows:
        few = f"{len(window.answered):,} predictions are too few: monitor.min_rows asks for {monitor.min_rows}"
        not_judged |= dict.fromkeys(("drift", "quality: nulls", "quality: unseen"), few)
    else:
        current, known = (rows[logged(schema)] for rows in (features(window.answered), reference))
        columns, limits, report = compared(window, reference, held_out, schema, monitor)
        share = sum(column["drifted"] for column in columns.values()) / len(columns)
        found["drift"] = {"share": share, "columns": columns}
        alarms += drifted(columns, monitor)
        quality["nulls"], more = nulls(current, known, limits)
        alarms += more
        quality["unseen"], more = unseen(current, known, schema, monitor)
        alarms += more
        quality["outside"] = outside(current, known, schema)
        found["estimate"] = performance.estimate(
            window.answered["output"], held_out, OperatingPoint.of(bundle.manifest), schema, params
        )
    found["performance"], why = judged(window, held_out, bundle, params)
    if why:
        not_judged["decay"] = why
    else:
        alarms += decayed(found["performance"], schema, monitor)
        for name in tasks.of(schema).GATE_METRICS:
            if found["performance"]["metrics"].get(name, {}).get("drop") is None:
                not_judged[f"decay: {name}"] = (
                    "these outcomes do not tell it, such as those of one class"
                )
    return {"quality": quality, **found}, not_judged, alarms, report


def compared(
    window: Window, reference: pd.DataFrame, held_out: pd.DataFrame, schema: Schema, params: Monitor
) -> tuple[dict[str, dict[str, Any]], pd.Series, Any]:
    """Return how each column was judged, the thresholds, and Evidently's report.

    Features are compared with what was learned from; the prediction with those on the test window, because
    on rows that it knows a model is surer of itself.
    """
    task, numeric = tasks.of(schema), drift.kinds(schema)
    when = [
        table[schema.timestamp] if schema.timestamp else None for table in (reference, held_out)
    ]
    scores = held_out_scores(held_out, schema)[1]
    predicted = pd.Series(task.predictions(scores, schema))
    current = features(window.answered)[logged(schema)]
    current[schema.prediction] = [
        task.logged_prediction(output, schema) for output in window.answered["output"]
    ]
    rows, days = len(current), (window.end - window.start) / timedelta(days=1)
    encoded = {name: drift.encode(reference[name], numeric[name]) for name in logged(schema)}
    alone = {schema.prediction: drift.encode(predicted, numeric[schema.prediction])}
    quiet = pd.concat(
        [
            drift.undisturbed(columns, time, rows, days, params.resamples)
            for columns, time in ((encoded, when[0]), (alone, when[1]))
        ],
        axis="columns",
    )
    least = pd.Series(
        {
            name: params.quality.max_nulls if name.endswith(": nulls") else params.min_distance
            for name in quiet
        }
    )
    limits = drift.thresholds(quiet, least, params.false_alarms)
    drawn = np.random.default_rng(0).choice(predicted, len(reference))
    against = reference.assign(**{schema.prediction: drawn})
    report, columns = drift.compare(
        current, against, schema, limits.to_dict(), params.drift_columns
    )
    return columns, limits, report


def judged(
    window: Window, held_out: pd.DataFrame, bundle: Bundle, params: Params
) -> tuple[dict[str, Any], str]:
    """Return how good the answers were that have outcomes, and why that cannot be told, if so."""
    schema, limits = bundle.schema, params.monitor.decay
    rows = compare.usable(window.labelled, schema)
    found: dict[str, Any] = {
        "labelled": window.known,
        "coverage": window.known / max(1, window.rows),
    }
    if len(rows):
        delay = (pd.to_datetime(rows["recorded"]) - pd.to_datetime(rows["time"])) / pd.Timedelta(
            days=1
        )
        found["delay_days"] = {"median": float(delay.median()), "p95": float(delay.quantile(0.95))}
    if len(rows) < limits.min_labels:
        return found, (
            f"{len(rows):,} outcomes of version {bundle.version} are too few: "
            f"monitor.decay.min_labels asks for {limits.min_labels:,}"
        )
    given = rows, held_out, OperatingPoint.of(bundle.manifest), schema
    found["metrics"] = performance.measure(*given, limits)
    found["calibration_error"] = performance.calibration(*given, params)
    found["calibration"] = performance.curve(rows, schema)
    found["slices"] = performance.by_slice(rows, schema, params.evaluate.min_slice_rows)
    return found, ""


def champion(settings: Settings) -> Bundle:
    """Return the champion; of a shared registry the newest, as another machine may have promoted it."""
    folder = Path(settings.bundle)
    if not folder.exists() or not settings.mlflow_tracking_uri.startswith("sqlite:"):
        from mlops_loop.release.champion import install_champion

        try:
            install_champion(settings)
        except Failure as failure:
            if not folder.exists():
                raise
            print(f"the champion in {folder} is taken for the newest: {failure}", file=sys.stderr)
    return open_bundle(folder)


def monitor(days: float | None = None, until: datetime | None = None) -> dict[str, Any]:
    """Judge a window of the log: the last `days` (by default monitor.days) before `until`, UTC, or now.

    Writes reports/monitor/<window>/ and the index over all windows, and returns what is in summary.json.
    """
    settings, params = load_settings(), load_params()
    bundle = champion(settings)
    if not (bundle.folder / HELD_OUT).is_file():
        raise Failure(f"{bundle.folder} is of an older version of this project: promote a new one")
    end = (until or datetime.now(UTC)).replace(tzinfo=UTC)
    if end > datetime.now(UTC) + timedelta(minutes=1):
        raise Failure(
            f"--until {end:%Y-%m-%d %H:%M} is in the future: that window has not passed yet"
        )
    start, engine = (
        end - timedelta(days=days or params.monitor.days),
        open_log(settings.prediction_log_url),
    )
    window = read_window(engine, start, end, bundle.version, bundle.schema, params.monitor.max_rows)
    found, not_judged, alarms, report = look(window, bundle, params)
    name = name_of(start, end)
    summary: dict[str, Any] = {
        "schema_version": 1,
        "window": name,
        "start": start.isoformat(timespec="seconds"),
        "end": end.isoformat(timespec="seconds"),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": settings.mlflow_experiment_name,
        "model_version": bundle.version,
        "rows": window.rows,
        "sampled": len(window.answered),
        "requests": window.requests,
        "versions": window.versions,
        "verdicts": [
            verdict for verdict in VERDICTS if any(a["verdict"] == verdict for a in alarms)
        ],
        "alarms": alarms,
        "not_judged": not_judged,
        **found,
        "report": (FOLDER / name / "index.html").as_posix(),
    }
    summary = files.plain(summary)
    with files.writing(FOLDER / name) as beside:
        beside.mkdir()
        files.write_json(beside / "summary.json", summary)
        pages.write_window(beside, summary, bundle.schema, report)
    files.write_json(LATEST, summary)
    store(engine, summary)
    pages.write_index(FOLDER, stored(engine, settings), bundle.schema)
    return summary


def store(engine: sa.Engine, summary: dict[str, Any]) -> None:
    """Keep a summary in the log's database, in place of an earlier one of the same window."""
    times = {key: datetime.fromisoformat(summary[key]) for key in ("start", "end", "made")}
    row = {"model": summary["model"], "name": summary["window"], **times, "summary": summary}
    same = (WINDOWS.c.model == row["model"]) & (WINDOWS.c.name == row["name"])
    try:
        with engine.begin() as connection:
            lock_database(connection)
            connection.execute(sa.delete(WINDOWS).where(same))
            connection.execute(sa.insert(WINDOWS), row)
    except SQLAlchemyError as error:
        raise unusable(error) from None


def stored(engine: sa.Engine, settings: Settings) -> list[dict[str, Any]]:
    """Return what was found in each window so far, in order of time."""
    query = sa.select(WINDOWS.c.summary).where(WINDOWS.c.model == settings.mlflow_experiment_name)
    try:
        with engine.connect() as connection:
            return list(connection.scalars(query.order_by(WINDOWS.c.end, WINDOWS.c.start)))
    except SQLAlchemyError as error:
        raise unusable(error) from None


def said(summary: dict[str, Any]) -> Iterable[str]:
    """Give the lines that tell of a window."""
    yield f"{summary['rows']:,} predictions from {summary['start'][:16]} to {summary['end'][:16]} UTC"
    for found in summary["alarms"]:
        yield f"{found['verdict']}: {found['text']}"
    for what, why in summary["not_judged"].items():
        yield f"not judged, {what}: {why}"
    metrics = (summary["performance"] or {}).get("metrics")
    if "drift" in summary["verdicts"] and metrics and "decay" not in summary["verdicts"]:
        name, numbers = next(iter(metrics.items()))
        if None in (numbers["value"], numbers["reference"]):
            return
        yield "drift, not decay: {} {value:.4g}, on the test window {reference:.4g}".format(
            name, **numbers
        )


def show(days: int | None = None, until: datetime | None = None) -> None:
    """Monitor, print what was found and tell it on; raise a Refusal if there is a verdict."""
    summary, settings = monitor(days, until), load_settings()
    told = alerts.tell(open_log(settings.prediction_log_url), settings, summary)
    print("\n".join(said(summary)))
    for line in told.lines:
        print(line)
    if told.undelivered:
        print(
            f"error: the alert was not delivered, the next run tries again: {told.undelivered}",
            file=sys.stderr,
        )
    if summary["verdicts"]:
        raise Refusal(f"{', '.join(summary['verdicts'])}: see {summary['report']}")
    print(f"nothing to report: see {summary['report']}")
    if told.undelivered:
        raise Failure("everything is fine, but nobody could be told that it is again")
