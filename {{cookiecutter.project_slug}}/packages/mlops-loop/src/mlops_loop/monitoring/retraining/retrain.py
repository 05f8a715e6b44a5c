"""Retrain: decide from evidence; if so run the pipeline and the gates, and record what came of it.

Every time in here is one of the data: a retraining `until` a day uses what is earlier than that
day. So past months can be replayed.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BUNDLE, PARAMS
from mlops_loop.base.params import format_source
from mlops_loop.base.pipeline import reproduce
from mlops_loop.base.settings import load_settings
from mlops_loop.monitoring.retraining.decide import decide
from mlops_loop.monitoring.retraining.document import (
    DECLINED,
    FAILED,
    STARTED,
    UNCHANGED,
    Retraining,
)
from mlops_loop.monitoring.retraining.evidence import Context, gather, open_context
from mlops_loop.monitoring.retraining.windows import DAY, Windows, midnight, moved, next_windows
from mlops_loop.release import audit
from mlops_loop.release.promote import print_gates, promote
from mlops_loop.scoring.bundle import open_bundle

LOCK_FILE = Path("build/retrain.lock")
RUNNING = "another retraining is running"


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
        facts = audit.Facts.model_validate({"until": f"{seen:%Y-%m-%d}", "reason": RUNNING})
        log.append(DECLINED, facts)
        print(f"{DECLINED}: {RUNNING}")
        return None
    with held:
        context = open_context(log)
        limits = context.params.retrain
        evidence = gather(context, seen, reason if force else None)
        document = Retraining(
            model=context.model,
            until=f"{seen:%Y-%m-%d}",
            note=reason if reason and not force else None,
            decision=decide(evidence, limits),
            evidence=evidence,
            limits=limits,
            fingerprint=context.fingerprint,
            seen=seen.replace(microsecond=0),
        )
        return carry_out(document, context)


def carry_out(document: Retraining, context: Context) -> Retraining:
    decision = document.decision
    if not decision.retrain:
        if decision.reasons:
            print(f"for: {'; '.join(decision.reasons)}")
        why = "; ".join(decision.against) if decision.reasons else "nothing asks for it"
        return decline(document, context, why)
    document.windows = plan(document, context)
    try:
        document.append(context.log, STARTED, "; ".join(decision.reasons), context.last_start)
    except audit.Overtaken:  # on another machine
        return decline(document, context, RUNNING)
    for text in decision.reasons:
        print(f"retraining for {text}")
    with recorded(document, context, f"; {PARAMS} is as it was"), moved(document.windows):
        reproduce()
    with recorded(document, context):
        made = open_bundle(BUNDLE).manifest
        document.metrics = {"candidate": made.metrics, "naive baseline": made.baseline}
        promotion = promote()
    document.result = UNCHANGED if promotion.outcome == "unchanged" else promotion.outcome
    document.version = promotion.version
    document.gates = promotion.gates
    if document.result == UNCHANGED:
        document.append(context.log, UNCHANGED, promotion.text)
    if document.result == "refused":
        document.reason = promotion.text
    document.write()
    print_gates(promotion.gates)
    print(promotion.checked().text)
    return document


def decline(document: Retraining, context: Context, why: str) -> Retraining:
    """Record that nothing is done, and why."""
    document.reason = why
    document.append(context.log, DECLINED, why)
    print(f"{DECLINED}: {why}")
    document.write()
    return document


def plan(document: Retraining, context: Context) -> Windows:
    """Return the new dates of params.yaml; record it if there are none to learn from."""
    evidence = document.evidence
    params = context.params
    with recorded(document, context, event=DECLINED):
        if context.schema.timestamp and evidence.newest is None:
            source = format_source(params.ingest.source)
            day = evidence.until - params.retrain.label_delay_days * DAY
            raise Failure(f"{source} has no labelled row of before {day:%Y-%m-%d}")
        return next_windows(params, evidence.oldest, evidence.newest)


@contextmanager
def recorded(
    document: Retraining, context: Context, consequence: str = "", event: str = FAILED
) -> Iterator[None]:
    """Record what fails within, and why; the reasons for the retraining still hold."""
    try:
        yield
    except BaseException as error:
        why = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt | SystemExit):
            why = "it was interrupted"
        document.append(context.log, event, why)
        document.result = "failed"
        document.reason = why + consequence
        document.write()
        raise
