"""Retrain: decide from evidence whether to; if so run the pipeline, ask the gates, and say what came of it.

Every time in here is one of the data: a retraining `until` a day uses what is earlier than that day. So
months that have passed can be replayed.
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa
from filelock import FileLock, Timeout
from ruamel.yaml.scalarstring import SingleQuotedScalarString
from sqlalchemy.exc import SQLAlchemyError

from mlops_loop.base import files
from mlops_loop.base.config import edited
from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.base.files import ACCEPTED, BUNDLE, LOCK, PARAMS, SCHEMA, TEST
from mlops_loop.base.params import Params, format_source, load_params
from mlops_loop.base.params import Retrain as Limits
from mlops_loop.base.pipeline import code, reproduce
from mlops_loop.base.settings import Settings, load_settings
from mlops_loop.contract.schema import Schema, load_schema
from mlops_loop.data import ingest, tables
from mlops_loop.data.split import SPLITS
from mlops_loop.metrics import tasks
from mlops_loop.monitoring import retraining_summary
from mlops_loop.prediction_log.connection import open_log, unusable
from mlops_loop.prediction_log.tables import WINDOWS
from mlops_loop.release import audit
from mlops_loop.release.candidate import same_target, score
from mlops_loop.release.champion import install, settle, target
from mlops_loop.release.champion_inputs import with_champion_inputs
from mlops_loop.release.gate_table import print_gates
from mlops_loop.release.promote import promote
from mlops_loop.scoring.bundle import HELD_OUT, Bundle, open_bundle
from mlops_loop.scoring.operating_point import OperatingPoint
from mlops_loop.tracking.session import experiment_name, session

# Events of the audit log.
STARTED, FAILED, DECLINED, SAME = "retraining", "retraining failed", "not retrained", "nothing new"
ENDS = SAME, "promoted", "refused"  # of a retraining that was carried out
BUSY = Path("build/retrain.lock")
RUNNING = "another retraining is running"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Evidence:
    """What the decision rests on."""

    until: datetime
    champion: str | None  # its version
    learned_to: datetime | None  # end of the data that was learned from last
    retrained: tuple[datetime, ...] = ()  # `until` of all retrainings, the last one last
    decay: tuple[str, ...] = ()  # what the monitor said of the champion since
    rows: int | None = None  # labelled ones since; None if the contract has no time
    newest: datetime | None = None  # of all labelled rows until then
    oldest: datetime | None = None
    changed: tuple[str, ...] = ()  # files since
    demand: str | None = None  # why it is wanted whatever the rest says


@dataclass(frozen=True)
class Decision:
    retrain: bool
    reasons: tuple[str, ...]
    against: tuple[str, ...]


def decide(evidence: Evidence, limits: Limits) -> Decision:
    """Return whether to retrain, and all that speaks for and against it, each as "rule: what was found".

    One reason is enough, if nothing is against it; on demand, nothing else counts.
    """
    until, learned, rows = evidence.until, evidence.learned_to, evidence.rows
    reasons, against = [f"decay: {text}" for text in evidence.decay], []
    if learned and (since := (until - learned).days) >= limits.every_days:
        reasons.append(
            f"schedule: {since} days since {learned:%Y-%m-%d}, at most {limits.every_days}"
        )
    if rows and rows >= limits.new_rows:
        reasons.append(f"new data: {rows:,} labelled rows, from {limits.new_rows:,} on")
    needs_data = bool(reasons)
    if evidence.champion is None:
        reasons.append("no champion: there is none yet")
    if evidence.changed:
        reasons.append(f"code: {', '.join(evidence.changed)} changed")
    if evidence.demand is not None:
        reasons.append(f"on demand: {evidence.demand or 'no reason was given'}")
    if needs_data and rows == 0 and not evidence.changed and evidence.champion:
        against.append(f"no new data: no labelled row is newer than {learned:%Y-%m-%d}")
    if evidence.retrained:
        last, spent = evidence.retrained[-1], evidence.retrained
        if (passed := (until - last).days) < 0:
            against.append(f"order: it was retrained until {last:%Y-%m-%d}, which is later")
        elif passed < limits.cooldown_days:
            asked = f"{limits.cooldown_days} are asked for"
            against.append(f"cool-down: {passed} days since the last retraining, {asked}")
        runs, budget = sum((until - day).days < limits.budget.days for day in spent), limits.budget
        if runs >= budget.runs:
            against.append(
                f"budget: {runs} retrainings in {budget.days} days, at most {budget.runs}"
            )
    return Decision(
        bool(reasons) and (evidence.demand is not None or not against),
        tuple(reasons),
        tuple(against),
    )


def midnight(time: datetime) -> datetime:
    """Return the beginning of the day, without a time zone as all times of tables are."""
    return time.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)


def made_of(schema: Path, params: Params) -> dict[str, str]:
    """Return the hashes of what makes one model another, apart from the data: code, contract, settings."""
    return {
        **code(),
        schema.name: files.sha256(schema),
        f"{PARAMS}: train": digest(params.train.model_dump(mode="json")),
    }


def digest(settings: dict[str, Any]) -> str:
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def changes(
    last: dict[str, Any] | None, champion: Bundle | None, now: dict[str, str]
) -> tuple[str, ...]:
    """Return the files that have changed since the last retraining or, if there was none, the champion."""
    before: dict[str, str] = last["made_of"] if last else {}
    if not last and champion:
        made = champion.manifest
        before = {
            **made.get("code_sha256", {}),  # of an older bundle nobody knows
            SCHEMA.name: made["inputs_sha256"][SCHEMA.name],
            f"{PARAMS}: train": digest(made["params"]["train"]),
        }
        now = {
            name: value for name, value in now.items() if name in before or made.get("code_sha256")
        }
    if not before:
        return ()
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return tuple(Path(name).name for name in different)


def learned_to(last: dict[str, Any] | None, champion: Bundle | None) -> datetime | None:
    """Return the end of the data that was learned from last; None if nobody knows."""
    if last:
        return datetime.fromisoformat(
            last.get("windows", {}).get("ingest", {}).get("end") or last["until"]
        )
    if not champion:
        return None
    if end := champion.manifest["params"]["ingest"]["end"]:
        return datetime.fromisoformat(end)
    name, path = champion.schema.timestamp, champion.folder / HELD_OUT
    if not name:  # not of the data, but of what was made of them
        promoted = champion.promotion.get("promoted_at")
        return midnight(datetime.fromisoformat(promoted)) if promoted else None
    if not path.is_file():
        return None
    newest: datetime = pc.max(pq.read_table(path, columns=[name])[name]).as_py()
    return midnight(newest) + DAY


def labelled(
    schema: Schema, params: Params, since: datetime | None, until: datetime
) -> tuple[int | None, datetime | None, datetime | None]:
    """Read the source up to `until`; return how many labelled rows are new; the newest and oldest of all."""
    name, as_text = schema.timestamp, set[str]()
    if not name:
        return None, None, None
    window = params.ingest.model_copy(update={"end": until})
    rows, times = 0, list[datetime]()
    for table in ingest.read(schema, window):
        part = ingest.select(table, schema, window, as_text)
        lacking = [
            key for key in (name, schema.target) if key not in part.column_names or key in as_text
        ]
        if lacking:
            raise Failure(
                f"{format_source(window.source)} has no column {lacking[0]!r} that fits schema.yaml"
            )
        when = part[name].filter(pc.and_(pc.is_valid(part[name]), pc.is_valid(part[schema.target])))
        rows += len(when.filter(pc.greater_equal(when, since)) if since else when)
        times += [pc.min(when).as_py(), pc.max(when).as_py()] if len(when) else []
    return rows, max(times, default=None), min(times, default=None)


def history(settings: Settings, until: datetime) -> list[dict[str, Any]]:
    """Return what the monitor found in the windows that had ended then (UTC), oldest first."""
    engine, end = open_log(settings.prediction_log_url), until.replace(tzinfo=UTC)
    mine = (WINDOWS.c.model == settings.mlflow_experiment_name) & (WINDOWS.c.end <= end)
    query = sa.select(WINDOWS.c.summary).where(mine).order_by(WINDOWS.c.end, WINDOWS.c.start)
    try:
        with engine.connect() as connection:
            return list(connection.scalars(query))
    except SQLAlchemyError as error:
        raise unusable(error) from None


def decays(
    windows: list[dict[str, Any]], champion: Bundle | None, since: datetime | None
) -> tuple[str, ...]:
    """Return what the monitor said of the champion's decay in windows that ended after `since`."""
    if champion is None:
        return ()
    return tuple(
        f"{window['window']}: {alarm['text']}"
        for window in windows
        if window["model_version"] == champion.version
        and (since is None or datetime.fromisoformat(window["end"]).replace(tzinfo=None) > since)
        for alarm in window["alarms"]
        if alarm["verdict"] == "decay"
    )


def find_champion(settings: Settings, log: sa.Engine, schema: Schema) -> Bundle | None:
    """Return the champion of this target, put where it is served; finish what a crash cut short before."""
    with session(settings) as client:
        settle(client, log)
        if install(client, target()) is None:
            return None
    found = open_bundle(target())
    same = (found.schema.task, found.schema.target) == (schema.task, schema.target)
    return found if same else None


def next_windows(params: Params, evidence: Evidence) -> dict[str, dict[str, str | None]]:
    """Return the dates that params.yaml shall have, by section; none if no labelled row has a time.

    They end with the day of the newest labelled row. Raises a Failure if nothing would be left to learn from.
    """
    limits, dates = params.retrain, params.ingest
    if evidence.newest is None:
        return {}
    end = midnight(evidence.newest) + DAY
    validation_end = end - limits.test_days * DAY
    train_end = validation_end - limits.validation_days * DAY
    start = train_end - limits.window_days * DAY if limits.window_days else dates.start
    begins = max(filter(None, (start, evidence.oldest)), default=train_end)
    if train_end <= begins:
        days = f"{limits.validation_days + limits.test_days} days of validation and test window"
        raise Failure(f"the data begin on {begins:%Y-%m-%d}: {days} leave nothing to learn from")
    found = {"ingest": {"start": written(start), "end": written(end)}}
    if params.split.train_end:
        found["split"] = {
            "train_end": written(train_end),
            "validation_end": written(validation_end),
        }
    return found


def written(day: datetime | None) -> str | None:
    return day.isoformat().removesuffix("T00:00:00") if day else None


def write_windows(windows: dict[str, dict[str, str | None]]) -> None:
    """Write the dates to params.yaml; all else in it stays as it is, comments too."""

    def change(document: Any) -> None:
        for section, dates in windows.items():
            quoted = {key: day and SingleQuotedScalarString(day) for key, day in dates.items()}
            document[section].update(quoted)

    files.write_text(PARAMS, edited(PARAMS, change))


@contextmanager
def put_back(*paths: Path) -> Iterator[None]:
    """Put files back as they were if what is done meanwhile fails or is interrupted."""
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
                continue
            with files.writing(path) as beside:
                beside.write_bytes(content)
        raise


def parts(schema: Schema) -> dict[str, dict[str, Any]]:
    """Return rows, first and last time of the training, validation and test window."""
    found = {}
    for name, path in SPLITS.items():
        facts: dict[str, Any] = {
            "rows": pq.read_metadata(path).num_rows,
            "first": None,
            "last": None,
        }
        if schema.timestamp:
            times = pq.read_table(path, columns=[schema.timestamp])[schema.timestamp]
            facts |= {
                "first": pc.min(times).as_py().isoformat(),
                "last": pc.max(times).as_py().isoformat(),
            }
        found[name] = facts
    return found


def compared(champion: Bundle | None, params: Params) -> dict[str, dict[str, float]]:
    """Return the metrics of candidate, champion and naive baseline on the newest window."""
    candidate = open_bundle(BUNDLE)
    found = {"candidate": candidate.manifest["metrics"]}
    with suppress(Failure):  # of two that cannot be compared: `promote` says why
        if champion and same_target(champion, candidate):
            table, task = (
                tables.read_sample(TEST, params.gates.max_rows),
                tasks.of(candidate.schema),
            )
            known = OperatingPoint.of(champion.manifest)
            inputs = with_champion_inputs(champion.schema, candidate.schema, table, params)
            given = task.truth(table, candidate.schema), score(champion, inputs), known
            found["champion"] = task.measure(*given, candidate.schema, params.evaluate)
    return found | {"naive baseline": candidate.manifest["baseline"]}


def retrain(until: datetime | None, force: bool, reason: str) -> dict[str, Any]:
    """Decide, record the decision, and carry it out; return what reports/retrain/summary.json holds.

    Raises the Failure of a pipeline that stopped, with params.yaml as it was, or the Refusal of the gates.
    """
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that a cancelled job puts files back too
    day, now = midnight(until or datetime.now(UTC)), datetime.now(UTC).replace(tzinfo=None)
    facts = {"until": written(day), **({"note": reason} if reason and not force else {})}
    BUSY.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(BUSY).acquire(timeout=0)
    except Timeout:
        return facts | decline(facts, RUNNING)
    with held:
        return carry_out(day, midnight(until) if until else now, reason if force else None, facts)


def decline(facts: dict[str, Any], why: str) -> dict[str, Any]:
    """Record that nothing is done, say why, and return that."""
    log = audit.open_audit(load_settings().prediction_log_url)
    audit.append(log, experiment_name(), DECLINED, {"reason": why, **facts})
    print(f"{DECLINED}: {why}")
    return {"result": "declined", "reason": why}


def finished(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the line of the last retraining that came to an end: neither failed nor killed."""
    last = running = None
    for line in lines:
        if line["event"] in (STARTED, FAILED):
            running = line if line["event"] == STARTED else None
        elif line["event"] in ENDS and running:
            last, running = running, None
    return last


def carry_out(
    day: datetime, seen: datetime, demand: str | None, facts: dict[str, Any]
) -> dict[str, Any]:
    """Decide and, if the evidence justifies it, retrain. Nobody else on this machine does so meanwhile.

    Data of before `day` may be used, and what the monitor found until `seen`, UTC.
    """
    settings, params, schema, name = (
        load_settings(),
        load_params(),
        load_schema(),
        experiment_name(),
    )
    log = audit.open_audit(settings.prediction_log_url)
    champion = find_champion(settings, log, schema)
    lines = list(audit.read(log, name))
    before, last = audit.last(log, name, STARTED), finished(lines)
    started = [line for line in lines if line["event"] == STARTED]
    windows, made = history(settings, seen), made_of(SCHEMA, params)
    since = learned_to(last, champion)
    looked = datetime.fromisoformat(last.get("seen") or last["until"]) if last else None
    known_to = day - params.retrain.label_delay_days * DAY
    rows, newest, oldest = labelled(schema, params, since, known_to)
    evidence = Evidence(
        until=day,
        champion=champion.version if champion else None,
        learned_to=since,
        retrained=tuple(datetime.fromisoformat(line["until"]) for line in started),
        decay=decays(windows, champion, looked),
        rows=rows,
        newest=newest,
        oldest=oldest,
        changed=changes(last, champion, made),
        demand=demand,
    )
    decision = decide(evidence, params.retrain)
    found: dict[str, Any] = {
        "schema_version": 1,
        "model": name,
        **facts,
        "result": "declined",
        "decision": asdict(decision),
        "evidence": files.plain(asdict(evidence)),
        "limits": params.retrain.model_dump(mode="json"),
        "metric": next(iter(tasks.of(schema).GATE_METRICS)),
        "monitor": retraining_summary.monitored(windows, next(iter(tasks.of(schema).GATE_METRICS))),
    }
    known = {
        key: found["evidence"][key]
        for key in ("champion", "learned_to", "rows", "newest", "changed")
    }
    facts |= {"reasons": decision.reasons, "against": decision.against, "evidence": known}
    if not decision.retrain:
        why = "; ".join(decision.reasons and decision.against) or "nothing asks for it"
        if decision.reasons:
            print(f"for: {'; '.join(decision.reasons)}")
        found |= decline(facts, why)
        retraining_summary.write(found)
        return found
    try:
        if schema.timestamp and newest is None:
            raise Failure(
                f"{format_source(params.ingest.source)} has no labelled row of before {known_to:%Y-%m-%d}"
            )
        dates = next_windows(params, evidence)
    except Failure as failure:
        decline(facts, str(failure))
        retraining_summary.write(found | {"result": "failed", "reason": str(failure)})
        raise
    facts |= {"reason": "; ".join(decision.reasons), "windows": dates, "made_of": made}
    facts |= {"seen": seen.isoformat(timespec="seconds")}
    try:
        line = audit.append(log, name, STARTED, facts, audit.Seen(before, (STARTED,)))
    except audit.Overtaken:  # on another machine
        return found | decline({key: facts[key] for key in ("until", "reasons")}, RUNNING)
    for text in decision.reasons:
        print(f"retraining for {text}")
    found |= {"windows": dates}
    try:
        with put_back(PARAMS, LOCK, ACCEPTED):
            if dates:
                write_windows(dates)
            reproduce()
    except BaseException as error:
        why = fail(log, line, error)
        retraining_summary.write(
            found | {"result": "failed", "reason": f"{why}; {PARAMS} is as it was"}
        )
        raise
    try:
        found |= {"parts": parts(schema), "metrics": compared(champion, params)}
        promotion = promote()
        print_gates(promotion.gates)
        promotion.checked()
        promoted = promotion.outcome == "promoted"
        found |= {"result": "promoted" if promoted else "nothing new", "reason": ""}
        if not promoted:
            facts = {
                "until": line["until"],
                "reason": "the pipeline gives what is champion already",
            }
            audit.append(log, name, SAME, facts)
    except Refusal as refusal:
        found |= {"result": "refused", "reason": str(refusal)}
        raise
    except BaseException as error:
        found |= {"result": "failed", "reason": fail(log, line, error)}
        raise
    finally:
        verdict = audit.last(log, name, "promoted", "refused")
        if verdict and verdict["number"] > line["number"]:
            keys = (
                "version",
                "before",
                "gates",
                "data_sha256",
                "bundle_sha256",
                "git_commit",
                "dvc_lock",
            )
            found |= {key: verdict.get(key) for key in keys}
        retraining_summary.write(found)
    same = "nothing new: the pipeline gives what is champion already"
    print(promotion.text if promoted else same)
    return found


def fail(log: sa.Engine, line: dict[str, Any], error: BaseException) -> str:
    """Record that a retraining came to nothing, so that its reasons still hold; return why."""
    why = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt | SystemExit):
        why = "it was interrupted"
    facts = {"until": line["until"], "retraining": line["number"], "reason": why}
    audit.append(log, line["model"], FAILED, facts)
    return why
