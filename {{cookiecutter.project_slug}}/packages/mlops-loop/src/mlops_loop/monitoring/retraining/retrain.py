"""Retrain: decide from evidence; if so run the pipeline and the gates, and record what came of it.

Every time in here is one of the data: a retraining `until` a day uses what is earlier than that
day. So past months can be replayed.
"""

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import ACCEPTED, LOCK, PARAMS, SCHEMA
from mlops_loop.base.params import format_source
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.settings import load_settings
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.retraining import audit_record, report
from mlops_loop.monitoring.retraining.audit_record import KnownFacts, Record
from mlops_loop.monitoring.retraining.candidate import candidate_metrics, split_sizes
from mlops_loop.monitoring.retraining.context import Context, Request, open_context
from mlops_loop.monitoring.retraining.decision import Decision, Evidence, decide
from mlops_loop.monitoring.retraining.evidence import (
    changes,
    decay_alarms,
    fingerprint,
    labelled_data,
    trained_through,
)
from mlops_loop.monitoring.retraining.summary import (
    DecisionDocument,
    Lineage,
    Result,
    RetrainingSummary,
    trends,
)
from mlops_loop.monitoring.retraining.training_windows import (
    TrainingWindows,
    midnight,
    next_windows,
    put_back,
    write_windows,
)
from mlops_loop.monitoring.window_store import stored_summaries
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.window_summary import WindowSummary
from mlops_loop.release import audit
from mlops_loop.release.promote import promote
from mlops_loop.release.promotion import print_gates
from mlops_loop.tracking.session import experiment_name

LOCK_FILE = Path("build/retrain.lock")
RUNNING = "another retraining is running"


def retrain(until: datetime | None, force: bool, reason: str) -> RetrainingSummary | None:
    """Decide, record the decision, and carry it out; None if another one runs on this machine.

    Raises the Failure of a pipeline that stopped, with params.yaml as it was, or a Refusal.
    """
    # So that a cancelled job puts files back too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    now = datetime.now(UTC).replace(tzinfo=None)
    request = Request(
        day=midnight(until or now),
        seen=midnight(until) if until else now,
        force_reason=reason if force else None,
        note=reason if reason and not force else None,
    )
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(LOCK_FILE).acquire(timeout=0)
    except Timeout:
        log = audit.open_audit(load_settings().prediction_log_url)
        record = Record(until=request.until, note=request.note, reason=RUNNING)
        decline(log, experiment_name(), record)
        return None
    with held:
        return decide_and_retrain(request)


def decide_and_retrain(request: Request) -> RetrainingSummary:
    settings = load_settings()
    context = open_context(request, settings)
    seen = request.seen.replace(tzinfo=UTC)
    windows = stored_summaries(open_log(settings.prediction_log_url), settings, seen)
    made_from = fingerprint(SCHEMA, context.params)
    evidence = gather(context, windows, made_from)
    decision = decide(evidence, context.params.retrain)
    summary = draft(context, evidence, decision, windows)
    record = record_of(request, evidence, decision)
    if not decision.retrain:
        why = "; ".join(map(str, decision.reasons and decision.against)) or "nothing asks for it"
        if decision.reasons:
            print(f"for: {'; '.join(map(str, decision.reasons))}")
        return end_declined(context, record, summary, why)
    dates = plan_windows(context, evidence, record, summary)
    update = {
        "reason": "; ".join(map(str, decision.reasons)),
        "windows": dates,
        "fingerprint": made_from,
        "seen": request.seen.replace(microsecond=0),
    }
    try:
        started = audit_record.start(
            context.log, context.model, record.model_copy(update=update), context.history
        )
    except audit.Overtaken:  # on another machine
        return end_declined(context, record, summary, RUNNING)
    for text in decision.reasons:
        print(f"retraining for {text}")
    summary = summary.model_copy(update={"windows": dates})
    run_pipeline(context, started, summary, dates)
    return judge_candidate(context, started, summary)


def gather(context: Context, windows: list[WindowSummary], made_from: dict[str, str]) -> Evidence:
    last = context.history.finished
    champion = context.champion
    since = trained_through(last, champion)
    labelled = labelled_data(context.schema, context.params, since, context.known_to)
    return Evidence(
        until=context.request.day,
        champion=champion.version if champion else None,
        trained_through=since,
        retrained=context.history.started,
        decay=decay_alarms(windows, champion, last.seen_until if last else None),
        rows=labelled.new_rows,
        newest=labelled.newest,
        oldest=labelled.oldest,
        changed=changes(last, champion, made_from),
        force_reason=context.request.force_reason,
    )


def draft(
    context: Context, evidence: Evidence, decision: Decision, windows: list[WindowSummary]
) -> RetrainingSummary:
    metric, _ = tasks.deciding_metric(context.schema)
    return RetrainingSummary(
        model=context.model,
        until=context.request.until,
        note=context.request.note,
        decision=DecisionDocument.of(decision),
        evidence=evidence,
        limits=context.params.retrain,
        metric=metric,
        monitor=trends(windows, metric),
    )


def record_of(request: Request, evidence: Evidence, decision: Decision) -> Record:
    known = KnownFacts(
        champion=evidence.champion,
        trained_through=evidence.trained_through,
        rows=evidence.rows,
        newest=evidence.newest,
        changed=evidence.changed,
    )
    reasons = tuple(map(str, decision.reasons))
    against = tuple(map(str, decision.against))
    return Record(
        until=request.until,
        note=request.note,
        reasons=reasons,
        against=against,
        evidence=known,
    )


def decline(log: sa.Engine, model: str, record: Record) -> None:
    audit_record.decline(log, model, record)
    print(f"{audit_record.DECLINED}: {record.reason}")


def end_declined(
    context: Context, record: Record, summary: RetrainingSummary, why: str
) -> RetrainingSummary:
    """Record that nothing is done, and why."""
    decline(context.log, context.model, record.model_copy(update={"reason": why}))
    ended = summary.ended("declined", why)
    report.write(ended)
    return ended


def plan_windows(
    context: Context, evidence: Evidence, record: Record, summary: RetrainingSummary
) -> TrainingWindows:
    """Return the new dates of params.yaml; record it if there are none to learn from."""
    try:
        if context.schema.timestamp and evidence.newest is None:
            source = format_source(context.params.ingest.source)
            day = f"{context.known_to:%Y-%m-%d}"
            raise Failure(f"{source} has no labelled row of before {day}")
        return next_windows(context.params, evidence)
    except Failure as failure:
        why = str(failure)
        decline(context.log, context.model, record.model_copy(update={"reason": why}))
        report.write(summary.ended("failed", why))
        raise


def run_pipeline(
    context: Context, started: audit.Line, summary: RetrainingSummary, dates: TrainingWindows
) -> None:
    """Run the pipeline on the new windows; if it stops, files are put back as they were."""
    try:
        with put_back(PARAMS, LOCK, ACCEPTED):
            write_windows(dates)
            reproduce()
    except BaseException as error:
        why = audit_record.fail(context.log, started, error)
        report.write(summary.ended("failed", f"{why}; {PARAMS} is as it was"))
        raise


def judge_candidate(
    context: Context, started: audit.Line, summary: RetrainingSummary
) -> RetrainingSummary:
    """Let the gates decide on the candidate; record what came of it."""
    try:
        measured = {
            "parts": split_sizes(context.schema),
            "metrics": candidate_metrics(context.champion, context.params),
        }
        summary = summary.model_copy(update=measured)
        promotion = promote()
        print_gates(promotion.gates)
        promotion.checked()
        if promotion.outcome != "promoted":
            audit_record.unchanged(context.log, context.model, context.request.until)
    except Refusal as refusal:
        write_ended(context, started, summary.ended("refused", str(refusal)))
        raise
    except BaseException as error:
        why = audit_record.fail(context.log, started, error)
        write_ended(context, started, summary.ended("failed", why))
        raise
    result: Result = "promoted" if promotion.outcome == "promoted" else "nothing new"
    ended = write_ended(context, started, summary.ended(result))
    same = "nothing new: the pipeline gives what is champion already"
    print(promotion.text if ended.promoted else same)
    return ended


def write_ended(
    context: Context, started: audit.Line, summary: RetrainingSummary
) -> RetrainingSummary:
    """Write the summary, with the lineage of the version if the gates decided on one."""
    line = audit.last(context.log, context.model, "promoted", "refused")
    if line and line.number > started.number:
        summary = summary.with_lineage(Lineage.model_validate_json(line.text))
    report.write(summary)
    return summary
