"""Retrain: decide from evidence; if so run the pipeline and the gates, and record what came of it.

Every time in here is one of the data: a retraining `until` a day uses what is earlier than that
day. So past months can be replayed.
"""

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import JsonValue

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import PARAMS
from mlops_loop.base.params import format_source
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.settings import load_settings
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.retraining import document as documents
from mlops_loop.monitoring.retraining import report
from mlops_loop.monitoring.retraining.decide import decide
from mlops_loop.monitoring.retraining.document import Lineage, Result, Retraining, WindowTrend
from mlops_loop.monitoring.retraining.evidence import (
    Context,
    candidate_metrics,
    fingerprint,
    gather,
    open_context,
    split_sizes,
)
from mlops_loop.monitoring.retraining.windows import DAY, Windows, midnight, moved, next_windows
from mlops_loop.monitoring.window_store import stored_summaries
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.release import audit
from mlops_loop.release.promote import print_gates, promote

SHOWN_WINDOWS = 24
LOCK_FILE = Path("build/retrain.lock")
RUNNING = "another retraining is running"
SAME = "the pipeline gives what is champion already"


def retrain(until: datetime | None, force: bool, reason: str) -> Retraining | None:
    """Decide, record the decision, and carry it out; None if another one runs on this machine.

    Raises the Failure of a pipeline that stopped, with params.yaml as it was, or a Refusal.
    """
    # So that a cancelled job puts files back too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seen = midnight(until) if until else datetime.now(UTC).replace(tzinfo=None)
    log = audit.AuditLog(load_settings())
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(LOCK_FILE).acquire(timeout=0)
    except Timeout:
        append(log, documents.DECLINED, f"{seen:%Y-%m-%d}", RUNNING)
        print(f"{documents.DECLINED}: {RUNNING}")
        return None
    with held:
        context = open_context(log)
        return carry_out(draft(context, seen, force, reason), context)


def draft(context: Context, seen: datetime, force: bool, reason: str) -> Retraining:
    """Return what was found and decided of data before the day of `seen`, UTC."""
    params = context.params
    metric, _ = tasks.deciding_metric(context.schema)
    prediction_log = open_log(load_settings().prediction_log_url)
    windows = stored_summaries(prediction_log, context.model, seen.replace(tzinfo=UTC))
    made_from = fingerprint(params)
    day = midnight(seen)
    evidence = gather(context, day, windows, made_from, reason if force else None)
    return Retraining(
        model=context.model,
        until=f"{day:%Y-%m-%d}",
        note=reason if reason and not force else None,
        decision=decide(evidence, params.retrain),
        evidence=evidence,
        limits=params.retrain,
        metric=metric,
        monitor=[WindowTrend.of(window, metric) for window in windows[-SHOWN_WINDOWS:]],
        fingerprint=made_from,
        seen=seen.replace(microsecond=0),
    )


def carry_out(document: Retraining, context: Context) -> Retraining:
    decision = document.decision
    if not decision.retrain:
        if decision.reasons:
            print(f"for: {'; '.join(decision.reasons)}")
        why = "; ".join(decision.against) if decision.reasons else "nothing asks for it"
        return decline(document, context, why)
    document = document.model_copy(update={"windows": plan(document, context)})
    try:
        why = "; ".join(decision.reasons)
        started = document.append(context.log, documents.STARTED, why, context.seen)
    except audit.Overtaken:  # on another machine
        return decline(document, context, RUNNING)
    for text in decision.reasons:
        print(f"retraining for {text}")
    try:
        with moved(document.windows or {}):
            reproduce()
    except BaseException as error:
        why = fail(context.log, started, error)
        report.write(document.ended("failed", f"{why}; {PARAMS} is as it was"))
        raise
    return judge(document, context, started)


def decline(document: Retraining, context: Context, why: str) -> Retraining:
    """Record that nothing is done, and why."""
    document.append(context.log, documents.DECLINED, why)
    print(f"{documents.DECLINED}: {why}")
    return report.write(document.ended("declined", why))


def plan(document: Retraining, context: Context) -> Windows:
    """Return the new dates of params.yaml; record it if there are none to learn from."""
    evidence = document.evidence
    params = context.params
    try:
        if context.schema.timestamp and evidence.newest is None:
            source = format_source(params.ingest.source)
            day = evidence.until - params.retrain.label_delay_days * DAY
            raise Failure(f"{source} has no labelled row of before {day:%Y-%m-%d}")
        return next_windows(params, evidence.oldest, evidence.newest)
    except Failure as failure:
        document.append(context.log, documents.DECLINED, str(failure))
        report.write(document.ended("failed", str(failure)))
        raise


def judge(document: Retraining, context: Context, started: audit.Line) -> Retraining:
    """Let the gates decide on the candidate; record what came of it."""
    log = context.log
    result: Result = documents.UNCHANGED
    text = f"{documents.UNCHANGED}: {SAME}"
    try:
        parts = split_sizes(context.schema)
        metrics = candidate_metrics(context.champion, context.params)
        document = document.model_copy(update={"parts": parts, "metrics": metrics})
        promotion = promote()
        print_gates(promotion.gates)
        promotion.checked()
        if promotion.outcome == "promoted":
            result = "promoted"
            text = promotion.text
        else:
            append(log, documents.UNCHANGED, document.until, SAME)
    except BaseException as error:
        result = "refused" if isinstance(error, Refusal) else "failed"
        why = str(error) if result == "refused" else fail(log, started, error)
        report.write(with_lineage(document.ended(result, why), log, started))
        raise
    print(text)
    return report.write(with_lineage(document.ended(result), log, started))


def with_lineage(document: Retraining, log: audit.AuditLog, started: audit.Line) -> Retraining:
    """Add what the audit log says of the version, if the gates decided on one."""
    line = log.last("promoted", "refused")
    if not line or line.number < started.number:
        return document
    return document.model_copy(update=dict(Lineage.model_validate(line.told)))


def fail(log: audit.AuditLog, started: audit.Line, error: BaseException) -> str:
    """Append that a retraining failed, so that its reasons still hold; return why."""
    why = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt | SystemExit):
        why = "it was interrupted"
    until = str(started.told["until"])
    append(log, documents.FAILED, until, why, retraining=started.number)
    return why


def append(log: audit.AuditLog, event: str, until: str, reason: str, **more: JsonValue) -> None:
    """Append a line to the audit log that tells no more than this."""
    facts = audit.Facts.model_validate({"until": until, "reason": reason, **more})
    log.append(event, facts)
