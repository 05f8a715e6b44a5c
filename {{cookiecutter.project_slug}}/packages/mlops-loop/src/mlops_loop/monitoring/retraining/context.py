"""Context: what a retraining is asked for, and what it works with."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from mlops_loop.base.params import Params, load_params
from mlops_loop.base.settings import Settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.monitoring.retraining.audit_record import History, read_history
from mlops_loop.monitoring.retraining.training_windows import DAY, format_day
from mlops_loop.release import audit
from mlops_loop.release.champion import install, settle, target
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.tracking.registry import open_registry
from mlops_loop.tracking.session import experiment_name


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

    request: Request
    model: str
    log: sa.Engine  # the audit log
    params: Params
    schema: Schema
    champion: Bundle | None
    history: History

    @property
    def known_to(self) -> datetime:
        """The time from which on labels may still change."""
        return self.request.day - self.params.retrain.label_delay_days * DAY


def open_context(request: Request, settings: Settings) -> Context:
    schema = load_schema()
    model = experiment_name()
    log = audit.open_audit(settings.prediction_log_url)
    return Context(
        request=request,
        model=model,
        log=log,
        params=load_params(),
        schema=schema,
        champion=find_champion(settings, log, schema),
        history=read_history(log, model),
    )


def find_champion(settings: Settings, log: sa.Engine, schema: Schema) -> Bundle | None:
    """Return the champion of this target, installed where it is served."""
    registry = open_registry(settings)
    settle(registry, log)  # finishes what a crash cut short before
    if install(registry, target()) is None:
        return None
    found = open_bundle(target())
    same = (found.schema.task, found.schema.target) == (schema.task, schema.target)
    return found if same else None
