"""Retrain: decide from evidence; if so run the pipeline and the gates, and record what came of it.

Every time in here is one of the data: a retraining `until` a day uses what is earlier than that
day. So past months can be replayed.
"""

import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout
from pydantic import JsonValue

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import ACCEPTED, LOCK, PARAMS, SCHEMA
from mlops_loop.base.params.ingest import format_source
from mlops_loop.base.params.params_file import Params, load_params
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.retraining import evidence as gathered
from mlops_loop.monitoring.retraining import report
from mlops_loop.monitoring.retraining.candidate import candidate_metrics, split_sizes
from mlops_loop.monitoring.retraining.decide import Evidence, decide
from mlops_loop.monitoring.retraining.document import (
    DECLINED,
    FAILED,
    STARTED,
    UNCHANGED,
    History,
    Lineage,
    Result,
    Retraining,
    read_history,
)
from mlops_loop.monitoring.retraining.windows import (
    DAY,
    Windows,
    format_day,
    midnight,
    next_windows,
    put_back,
    write_windows,
)
from mlops_loop.monitoring.window_store import stored_summaries
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.release import audit
from mlops_loop.release.champion import install, settle, target
from mlops_loop.release.promote import promote
from mlops_loop.release.promotion import print_gates
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.tracking.registry import open_registry
from mlops_loop.tracking.session import experiment_name

LOCK_FILE = Path("build/retrain.lock")
RUNNING = "another retraining is running"
SAME = "the pipeline gives what is champion already"


@dataclass(frozen=True)
class Request:
    """Data of before `day` may be used, and what the monitor found until `seen`, UTC."""

    day: datetime
    seen: datetime
    force_reason: str | None  # None without --force
    note: str | None

    @property
    def until(self) -> str:
        return str(format_day(self.day))


@dataclass(frozen=True)
class Context:
    """What a retraining works with."""

    settings: Settings
    params: Params
    schema: Schema
    log: sa.Engine  # the audit log
    champion: Bundle | None
    history: History


def retrain(until: datetime | None, force: bool, reason: str) -> Retraining | None:
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
    settings = load_settings()
    log = audit.open_audit(settings.prediction_log_url)
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(LOCK_FILE).acquire(timeout=0)
    except Timeout:
        append(log, experiment_name(), DECLINED, request.until, RUNNING)
        print(f"{DECLINED}: {RUNNING}")
        return None
    with held:
        schema = load_schema()
        history = read_history(log, experiment_name())
        champion = find_champion(settings, log, schema)
        context = Context(settings, load_params(), schema, log, champion, history)
        return decide_and_retrain(request, context)


def find_champion(settings: Settings, log: sa.Engine, schema: Schema) -> Bundle | None:
    """Return the champion of this target, installed where it is served."""
    registry = open_registry(settings)
    settle(registry, log)  # finishes what a crash cut short before
    if install(registry, target()) is None:
        return None
    found = open_bundle(target())
    same = (found.schema.task, found.schema.target) == (schema.task, schema.target)
    return found if same else None


def decide_and_retrain(request: Request, context: Context) -> Retraining:
    document = draft(request, context)
    decision = document.decision
    if not decision.retrain:
        if decision.reasons:
            print(f"for: {'; '.join(decision.reasons)}")
        why = "; ".join(decision.against) if decision.reasons else "nothing asks for it"
        return decline(document, context, why)
    document = document.model_copy(update={"windows": plan(document, context)})
    try:
        why = "; ".join(decision.reasons)
        started = document.append(context.log, STARTED, why, context.history.seen)
    except audit.Overtaken:  # on another machine
        return decline(document, context, RUNNING)
    for text in decision.reasons:
        print(f"retraining for {text}")
    try:
        with put_back(PARAMS, LOCK, ACCEPTED):
            write_windows(document.windows or {})
            reproduce()
    except BaseException as error:
        why = fail(context.log, started, error)
        report.write(document.ended("failed", f"{why}; {PARAMS} is as it was"))
        raise
    return judge(document, context, started)


def draft(request: Request, context: Context) -> Retraining:
    """Return what was found and decided, before anything is done."""
    params = context.params
    champion = context.champion
    last = context.history.finished
    metric, _ = tasks.deciding_metric(context.schema)
    log = open_log(context.settings.prediction_log_url)
    seen = request.seen.replace(tzinfo=UTC)
    windows = stored_summaries(log, context.settings.mlflow_experiment_name, seen)
    made_from = gathered.fingerprint(SCHEMA, params)
    since = gathered.trained_through(last, champion)
    known_to = request.day - params.retrain.label_delay_days * DAY
    labelled = gathered.labelled_data(context.schema, params, since, known_to)
    evidence = Evidence(
        until=request.day,
        champion=champion.version if champion else None,
        trained_through=since,
        retrained=context.history.started,
        decay=gathered.decay_alarms(windows, champion, last.seen_until if last else None),
        rows=labelled.new_rows,
        newest=labelled.newest,
        oldest=labelled.oldest,
        changed=gathered.changes(last, champion, made_from),
        force_reason=request.force_reason,
    )
    return Retraining(
        model=experiment_name(),
        until=request.until,
        note=request.note,
        decision=decide(evidence, params.retrain),
        evidence=evidence,
        limits=params.retrain,
        metric=metric,
        monitor=gathered.trends(windows, metric),
        fingerprint=made_from,
        seen=request.seen.replace(microsecond=0),
    )


def decline(document: Retraining, context: Context, why: str) -> Retraining:
    """Record that nothing is done, and why."""
    document.append(context.log, DECLINED, why)
    print(f"{DECLINED}: {why}")
    return report.write(document.ended("declined", why))


def plan(document: Retraining, context: Context) -> Windows:
    """Return the new dates of params.yaml; record it if there are none to learn from."""
    evidence = document.evidence
    params = context.params
    try:
        if context.schema.timestamp and evidence.newest is None:
            day = evidence.until - params.retrain.label_delay_days * DAY
            source = format_source(params.ingest.source)
            raise Failure(f"{source} has no labelled row of before {day:%Y-%m-%d}")
        return next_windows(params, evidence.oldest, evidence.newest)
    except Failure as failure:
        document.append(context.log, DECLINED, str(failure))
        report.write(document.ended("failed", str(failure)))
        raise


def judge(document: Retraining, context: Context, started: audit.Line) -> Retraining:
    """Let the gates decide on the candidate; record what came of it."""
    log = context.log
    result: Result = UNCHANGED
    text = f"{UNCHANGED}: {SAME}"
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
            append(log, document.model, UNCHANGED, document.until, SAME)
    except BaseException as error:
        result = "refused" if isinstance(error, Refusal) else "failed"
        why = str(error) if result == "refused" else fail(log, started, error)
        report.write(with_lineage(document.ended(result, why), log, started))
        raise
    print(text)
    return report.write(with_lineage(document.ended(result), log, started))


def with_lineage(document: Retraining, log: sa.Engine, started: audit.Line) -> Retraining:
    """Add what the audit log says of the version, if the gates decided on one."""
    line = audit.last(log, document.model, "promoted", "refused")
    if not line or line.number < started.number:
        return document
    return document.model_copy(update=dict(Lineage.model_validate(line.told)))


def fail(log: sa.Engine, started: audit.Line, error: BaseException) -> str:
    """Append that a retraining failed, so that its reasons still hold; return why."""
    why = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt | SystemExit):
        why = "it was interrupted"
    until = str(started.told["until"])
    append(log, started.model, FAILED, until, why, retraining=started.number)
    return why


def append(
    log: sa.Engine, model: str, event: str, until: str, reason: str, **more: JsonValue
) -> None:
    """Append a line to the audit log that tells no more than this."""
    facts = audit.Facts.model_validate({"until": until, "reason": reason, **more})
    audit.append(log, model, event, facts)
