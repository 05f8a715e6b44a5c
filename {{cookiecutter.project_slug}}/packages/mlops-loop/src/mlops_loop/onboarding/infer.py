"""Infer: look at a whole table once, and propose its data contract."""

import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from math import ceil, floor, log10
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Column as Head
from rich.table import Table
from ruamel.yaml import YAML

from mlops_loop.base import files
from mlops_loop.base.config import edited, parse_yaml
from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BEHAVIOUR, DVC, PARAMS, SCHEMA
from mlops_loop.base.params import Params, SplitParams, Sql, format_source, load_params
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import LARGEST, Column, Schema
from mlops_loop.contract.task import Task
from mlops_loop.contract.versions import LOOP_KEY, VERSION
from mlops_loop.data import data_checks, split
from mlops_loop.data.cast import cast_table, check_rows, latest_now
from mlops_loop.data.profile import (
    FORMATS,
    NUMBER,
    WHOLE,
    ColumnProfile,
    TableProfile,
    cast_or_none,
    is_unique,
    missing_texts,
    profile_table,
    set_missing,
    text_counts,
    time_formats,
)
from mlops_loop.data.source import batches, local, plain
from mlops_loop.metrics import tasks
from mlops_loop.training.behaviour.declaration import load_behaviour
from mlops_loop.training.behaviour.examples import without_tests
from mlops_loop.training.train import build

MIN_ROWS = 50
FEWEST = 3  # rows of a class
MAX_CATEGORIES = 100  # of a text column; of one with more, only the most frequent are named
FREQUENT, SHARE = 50, 0.8  # so many, if they hold this share of the rows
MAX_CLASSES = 50
MAX_LEAKAGE = 0.99
EMPTY = 0.95  # share of missing values from which on a column is ignored
NEARLY = 0.98  # share of different texts from which on they are ids
SLACK = 0.1  # of the range, on either side
YES = (
    *("1", "true", "yes", "y", "t", "positive", "late", "churned", "default", "fraud", "spam"),
    *(">50k", "malignant"),
)
PEOPLE = re.compile(
    r"(?i:(^|[\W_])(sex|gender|race|racial|ethnic\w*|religion|nationality|citizenship|disab\w+|marital|age_?group|pregnan\w+)"
    r"($|[\W_]))|[a-z](Sex|Gender|Race|Ethnicity|Religion|Nationality|Citizenship)($|[\W_A-Z])"
)
ID = re.compile(r"(?i:(^|[\W_])(id|uuid|guid|key|index)$)|[a-z]I[dD]$")

NUMERAL = re.compile(
    r"\s*[-+$€]?\d+([., ]\d+)*\s*[%€$]?"
)  # as people write it, decimal commas and units
A_TIME = "a time: to split by it, give --timestamp {!r}"

Spec = dict[str, Any]  # a column, or the whole, as schema.yaml has it


def limits(low: float, high: float, whole: bool) -> dict[str, float]:
    """Return a minimum and a maximum with SLACK, rounded outwards, but never across zero."""
    margin = SLACK * (high - low) or SLACK * abs(high) or 1
    margin = floor(margin) if whole else margin  # 0 to 1, and 1 to 7, stay what they are
    step = 10.0 ** floor(log10(margin)) if margin else 1.0
    bottom = floor(round((low - margin) / step, 6)) * step
    top = ceil(round((high + margin) / step, 6)) * step
    bottom, top = (max(bottom, 0.0) if low >= 0 else bottom), (min(top, 0.0) if high <= 0 else top)
    found = {"minimum": max(bottom, -LARGEST), "maximum": min(top, LARGEST)}
    places = max(0, -round(log10(step)))
    return {key: tidy(round(value, places)) for key, value in found.items()}


def tidy(value: float) -> float:
    """Return whole numbers as such: 5 is easier to read than 5.0."""
    return int(value) if value.is_integer() and abs(value) < WHOLE else value


def propose(name: str, seen: ColumnProfile, sample: pa.ChunkedArray) -> tuple[Spec, str]:
    """Return what schema.yaml is to say of a column that is no target or timestamp, and why."""
    empty = 1 - seen.filled / seen.rows
    ignored: Spec = {"type": "category", "role": "ignored"}
    nullable = {"nullable": True} if empty else {}
    if empty >= EMPTY:
        return ignored, "no values" if empty == 1 else f"{empty:.1%} of the values are missing"
    if seen.kind == "other":
        return ignored, f"values of type {sample.type} are not read"
    if seen.kind == "time":
        return {**ignored, "type": "timestamp"}, A_TIME.format(name)
    different = None if seen.more else seen.counts.num_rows
    if different == 1 and not empty:
        return ignored, f"always {next(iter(text_counts(seen)))}"
    if seen.number:
        return propose_number(name, seen, nullable)
    return propose_text(name, seen, nullable, sample.drop_null())


def propose_number(name: str, seen: ColumnProfile, nullable: Spec) -> tuple[Spec, str]:
    kind = "integer" if seen.whole else "number"
    largest = max(-seen.low, seen.high)
    if (
        seen.whole
        and is_unique(seen)
        and (ID.search(name) or seen.high - seen.low == seen.rows - 1)
    ):
        return {
            "type": kind,
            "role": "id",
        }, "different in each row, and in its name or its order an id"
    if largest > LARGEST:
        return {
            "type": kind,
            "role": "ignored",
        }, f"values as large as {largest:.1e} are not computed with"
    found = limits(seen.low, seen.high, seen.whole)
    return {"type": kind, **found, **nullable}, f"seen: {seen.low:.8g} to {seen.high:.8g}"


def propose_text(
    name: str, seen: ColumnProfile, nullable: Spec, sample: pa.ChunkedArray
) -> tuple[Spec, str]:
    counts, ignored = text_counts(seen), {"type": "category", "role": "ignored"}
    if {text.casefold() for text in counts} == {"true", "false"}:
        return {"type": "boolean", **nullable}, "true and false"
    if time_formats(sample.unique(), FORMATS):
        return {**ignored, "type": "timestamp"}, A_TIME.format(name)
    if is_unique(seen):
        return {"type": "id", "role": "id"}, "different in each row"
    if len(sample.unique()) >= NEARLY * len(sample):
        return {"type": "id", "role": "id", **nullable}, "different in nearly all rows"
    if len(counts) <= MAX_CATEGORIES:
        why = f"{len(counts)} different texts" + ", like 007" * seen.coded
        return {"type": "category", "categories": list(counts), **nullable}, why
    frequent = sorted(counts, key=lambda text: -counts[text])[:FREQUENT]
    share = sum(counts[text] for text in frequent) / seen.rows
    why = f"{number_of(seen)} different texts, of which {FREQUENT} hold {share:.0%} of the rows"
    numbers = sum(bool(NUMERAL.fullmatch(text)) for text in counts)
    if numbers >= SHARE * len(counts):
        return ignored, f"{why}: mostly numbers - write them like 1234.5, and leave others empty"
    if share < SHARE:
        return ignored, f"{why}: too many to learn from, unless grouped at the source"
    return {
        "type": "category",
        "categories": sorted(frequent),
        "allow_unknown": True,
        **nullable,
    }, why


def number_of(seen: ColumnProfile) -> str:
    return f"{'over ' * seen.more}{seen.counts.num_rows:,}"


def propose_target(name: str, seen: ColumnProfile, task: str | None) -> tuple[Spec, Spec, str]:
    """Return what schema.yaml is to say of the target, its task and positive class, and why.

    Raises Failure if nothing can be predicted, or not what `task` asks for.
    """
    if not seen.filled:
        raise Failure(f"the target {name!r} is empty: there is nothing to learn")
    if seen.kind in ("time", "other"):
        raise Failure(
            f"the target {name!r} cannot be predicted: it is neither a class nor a number"
        )
    different, lost = seen.counts.num_rows, seen.rows - seen.filled
    if different == 1:
        raise Failure(
            f"the target {name!r} is always {next(iter(text_counts(seen)))}: there is nothing to predict"
        )
    few = different <= (10 if seen.number else MAX_CLASSES)
    if task == "regression" or (
        task is None and seen.number and not (seen.whole and few) and different > 2
    ):
        spec, table, why = propose_value(name, seen)
    else:
        spec, table, why = propose_classes(name, seen, task)
    if lost:
        spec, why = {**spec, "nullable": True}, f"{why}; the {lost:,} rows without it are left out"
    return {**spec, "role": "target"}, table, why


def propose_value(name: str, seen: ColumnProfile) -> tuple[Spec, Spec, str]:
    if not seen.number:
        raise Failure(
            f"the target {name!r} of a regression must be a number: {example(seen)} is none"
        )
    if max(-seen.low, seen.high) > LARGEST:
        raise Failure(f"the target {name!r} goes beyond {LARGEST:.1e}: choose another unit")
    spec = {
        "type": "integer" if seen.whole else "number",
        **limits(seen.low, seen.high, seen.whole),
    }
    why = f"{number_of(seen)} different numbers, from {seen.low:.8g} to {seen.high:.8g}"
    return spec, {"task": "regression"}, why


def propose_classes(name: str, seen: ColumnProfile, task: str | None) -> tuple[Spec, Spec, str]:
    """Return the classes, less those with hardly a row: each window needs one."""
    counts = text_counts(seen)
    if len(counts) > MAX_CLASSES:
        what = f"{number_of(seen)} classes, {MAX_CLASSES} is the limit"
        raise Failure(f"the target {name!r} has {what}: group them at the source")
    classes = [text for text, count in counts.items() if count >= FEWEST]
    if len(classes) < 2:
        what = f"the target {name!r} has {len(classes)} classes of at least {FEWEST} rows"
        raise Failure(f"{what}: training, validation and test need one each")
    found = "binary-classification" if len(classes) == 2 else "multiclass-classification"
    if task not in (None, found):
        what = f"the target {name!r} has {len(classes)} classes"
        raise Failure(f"{what}, which do not go with {task}: leave --task out")
    rare = min(classes, key=lambda text: counts[text])
    spec: Spec = {"type": "category", "categories": classes}
    why = (
        f"{len(classes)} classes, the rarest {rare!r} in {counts[rare] / seen.rows:.1%} of the rows"
    )
    if gone := [text for text in counts if text not in classes]:
        rows = sum(counts[text] for text in gone)
        spec["mostly"] = floor((1 - 2 * rows / seen.rows) * 1000) / 1000
        why += f"; {', '.join(map(repr, gone))} with fewer than {FEWEST} rows left out"
    yes = [text for text in classes if text.strip().strip(".").casefold() in YES]
    positive = {"positive": yes[0] if len(yes) == 1 else rare} if len(classes) == 2 else {}
    return spec, {"task": found, **positive}, why


def example(seen: ColumnProfile) -> str:
    """Return a value that is no number."""
    values = [pa.array([value]) for value in seen.counts["value"].to_pylist()]
    return repr(
        next(
            (value[0].as_py() for value in values if cast_or_none(value, NUMBER) is None),
            "a truth value",
        )
    )


def propose_table(
    known: TableProfile, name: str, target: str, timestamp: str | None, task: str | None
) -> tuple[Spec, Spec]:
    """Return the content of schema.yaml, apart from the repeated rows, and the reasons by column."""
    missing = missing_texts(known.profiles)
    for seen in known.profiles.values():
        set_missing(seen, missing)
    if known.rows < MIN_ROWS:
        raise Failure(f"too few rows to learn from: {known.rows:,}, of at least {MIN_ROWS}")
    refuse_infinite(known.profiles)
    spec, table, why = propose_target(target, known.profiles[target], task)
    columns, reasons = {target: spec}, {target: why}
    if timestamp:
        columns[timestamp], reasons[timestamp] = propose_timestamp(timestamp, known)
    sample = plain(known.sample, missing)
    for key, seen in known.profiles.items():
        if key not in columns:
            columns[key], reasons[key] = propose(key, seen, sample[key])
    scores = leaks(sample, columns, target, table["task"])
    for key in [key for key, score in scores.items() if score >= MAX_LEAKAGE]:
        columns[key] = {"type": columns[key]["type"], "role": "ignored"}
        reasons[key] = (
            f"tells the target nearly alone, with a score of {scores.pop(key):.3f} of 1: a leak?"
        )
    if not any("role" not in spec for spec in columns.values()):
        what = "; ".join(f"{key}: {reasons[key]}" for key in list(columns)[1:4])
        raise Failure(f"no column is left to learn {target!r} from ({what or 'there is no other'})")
    keys = [
        key
        for key, spec in columns.items()
        if spec.get("role") == "id" and is_unique(known.profiles[key])
    ]
    document: Spec = {
        "name": name,
        **table,
        "target": target,
        "timestamp": timestamp,
        "unique": keys[:1],
    }
    document |= {"min_rows": max(1, known.rows // 2), "missing": missing}
    # Another sample of the rows may score a little higher.
    document |= {
        "max_leakage": max(
            MAX_LEAKAGE, min(1, ceil(max(scores.values(), default=0) * 200 + 1) / 200)
        )
    }
    return document | {"columns": {key: columns[key] for key in known.profiles}}, reasons


def refuse_infinite(profiles: Mapping[str, ColumnProfile]) -> None:
    for name, seen in profiles.items():
        if seen.infinite and seen.number:
            what = "leave them empty at the source, or put in the largest value that makes sense"
            raise Failure(f"the column {name!r} holds {seen.infinite:,} infinite values: {what}")


def propose_timestamp(name: str, known: TableProfile) -> tuple[Spec, str]:
    seen, form = known.profiles[name], known.formats[0]
    if not seen.filled:
        raise Failure(f"the timestamp {name!r} is empty")
    why = "written as in ISO 8601" if form is None else f"written as {form}"
    others = [
        other for other in known.formats[1:] if form and other and sorted(other) == sorted(form)
    ]
    if seen.kind == "time":
        form, why = None, "a time"
    elif others:
        why += f" - or as {others[0]}, which all values have, too: correct `format` if so"
    spec: Spec = {"type": "timestamp", "role": "timestamp", **({"format": form} if form else {})}
    if lost := seen.rows - seen.filled:
        spec, why = {**spec, "nullable": True}, f"{why}; the {lost:,} rows without it are left out"
    return spec, why


def leaks(
    sample: pa.Table, columns: Mapping[str, Spec], target: str, task: str
) -> dict[str, float]:
    """Return how well each of the features alone tells the target, on the sample."""
    used = {
        name: Column(**spec)
        for name, spec in columns.items()
        if spec.get("role", "target") == "target"
    }
    typed, _ = check_rows(cast_table(sample, used).to_pandas(), used)
    return data_checks.leaks(
        typed, [name for name in used if name != target], target, task == "regression"
    )


def measure(tables: Iterable[pa.Table], schema: Schema, params: SplitParams) -> dict[str, float]:
    """Return the shares of rows that repeat another one, and of test rows that training sees, too.

    Raises Failure if a class does not occur in the training window, or a time is in the future.
    """
    rows: list[np.ndarray] = []
    learnt: list[np.ndarray] = []
    needed: list[pd.DataFrame] = []
    by = schema.timestamp or schema.target
    for table in tables:
        as_text: set[str] = set()
        typed = cast_table(table, schema.used, as_text).to_pandas()
        if as_text:
            raise Failure(f"the column {min(as_text)!r} changed while it was read: try again")
        rows.append(data_checks.hashes(typed, schema.used))
        learnt.append(data_checks.hashes(typed, [*schema.features, schema.target]))
        needed.append(typed[[*{by, schema.target}]])
    every, facts = np.concatenate(rows), np.concatenate(learnt)
    values = pd.concat(needed, ignore_index=True)
    windows = split.split_rows(values[by], schema, params)
    check_windows(values, windows, schema)
    shares = {
        "max_duplicates": data_checks.repeated(every),
        "max_overlap": np.isin(facts[windows == 2], facts[windows == 0]),
    }
    return {key: float(share.mean()) for key, share in shares.items()}


def check_windows(values: pd.DataFrame, windows: np.ndarray, schema: Schema) -> None:
    """Refuse a time in the future, and windows that lack a class."""
    if schema.timestamp:
        when = values[schema.timestamp]
        if late := int((when > latest_now()).sum()):
            what = f"the timestamp {schema.timestamp!r} is in the future in {late:,} rows, up to {when.max()}"
            raise Failure(f"{what}: leave those out at the source")
    for place, window in enumerate(split.SPLITS if schema.classes else ()):
        absent = sorted({*schema.classes} - {*values[schema.target][windows == place].unique()})
        if absent and (place == 0 or len(absent) > len(schema.classes) - 2):
            what = f"the target {schema.target!r} is {absent[0]!r} in no row of the {window} window"
            raise Failure(f"{what}: split at random, without --timestamp, or leave that class out")


def as_yaml(document: Spec, source: str) -> str:
    """Return schema.yaml, without what goes without saying."""
    usual: Spec = {"timestamp": None, "unique": [], "missing": [""], "max_leakage": MAX_LEAKAGE}
    written = {LOOP_KEY: ".".join(VERSION.split(".")[:2])} | {
        key: value for key, value in document.items() if key not in usual or usual[key] != value
    }
    head = f"# The data contract, inferred from {' '.join(source.split())}: correct what you know better.\n"
    # PyYAML writes the line break U+0085 as it is, and reads it as a space.
    readable = "\x85" not in str(written) and "\\x85" not in str(written)
    return head + yaml.safe_dump(
        written, default_flow_style=None, sort_keys=False, allow_unicode=readable, width=100
    )


def new_params(source: str | Sql, schema: Schema) -> str:
    """Return params.yaml for the source: without dates or columns of the former one."""

    def change(params: Any) -> None:
        params["ingest"]["source"] = source if isinstance(source, str) else source.model_dump()
        params["ingest"] |= {"start": None, "end": None}
        params["split"] |= {"train_end": None, "validation_end": None}
        params["evaluate"]["baseline_by"] = None
        params["train"]["model"] = suitable_model(schema)
        if (
            params["gates"]["slices"] and former_task() != schema.task
        ):  # its limits were of other metrics
            params["gates"]["slices"] |= tasks.of(schema).SLICE_LIMITS

    return edited(PARAMS, change)


def suitable_model(schema: Schema) -> str:
    """Return the estimator in use or, if it does not fit the task, the first in params.yaml that does."""
    params = load_params().train
    for name in (params.model, *params.sections):
        with suppress(Failure):
            build(schema, params.model_copy(update={"model": name}))
            return name
    return params.model


def former_task() -> str | None:
    """Return the task that schema.yaml names, whatever else is in it; None if there is none."""
    named = (
        re.search(r"(?m)^task: *(\S+)", SCHEMA.read_text(encoding="utf-8"))
        if SCHEMA.exists()
        else None
    )
    return named[1] if named else None


def new_behaviour(schema: Schema) -> tuple[str | None, str]:
    """Return behaviour.yaml for the contract, or None if the present one stays; and what became of it.

    Tests of another table do not fit this one's contract: then all give way to an example.
    """
    try:
        if BEHAVIOUR.exists() and load_behaviour(schema).cases:
            return None, "stay, as each fits the contract"
        said = f"none yet, see the example in {BEHAVIOUR}"
    except Failure as misfit:
        said = f"those of another table are gone ({misfit}); see the example in {BEHAVIOUR}"
    return without_tests(schema), said


def people(schema: Schema) -> list[str]:
    """Return the columns whose names say that they tell groups of people."""
    used = [name for name in schema.used if name != schema.target]
    return [name for name in used if PEOPLE.search(name) and not schema.columns[name].protected]


def new_pipeline(source: str | Sql, schema: Schema) -> str:
    """Return dvc.yaml for the source: `ingest` runs again when the file changes."""
    local_file = (
        [source.replace("${", "\\${")] if isinstance(source, str) and "://" not in source else []
    )

    def change(pipeline: Any) -> None:
        deps = pipeline["stages"]["ingest"]["deps"]
        code = [dep for dep in deps if str(dep).startswith(("src/", "packages/"))]
        deps[:] = [str(SCHEMA), *local_file, *code]
        for stage in pipeline["stages"].values():  # the example's rows; it may be deleted now
            for dep in [dep for dep in stage["deps"] if str(dep).endswith("/flights.py")]:
                stage["deps"].remove(dep)
        if pipeline["plots"] != (plots := tasks.of(schema).PLOTS):
            pipeline["plots"] = YAML().load(
                yaml.safe_dump(plots, default_flow_style=None, sort_keys=False)
            )

    return edited(DVC, change)


def as_written(source: str | Sql) -> str | Sql:
    """Return a source as params.yaml names it: a file inside the project by its path from there."""
    if isinstance(source, Sql) or "://" in source:
        return source
    path = Path(source).resolve()
    return (
        path.relative_to(Path.cwd()).as_posix()
        if path.is_relative_to(Path.cwd())
        else path.as_posix()
    )


def name_of(source: str | Sql) -> str:
    return (
        "query"
        if isinstance(source, Sql)
        else Path(format_source(source)).name.split(".")[0] or "table"
    )


def infer(
    source: str | Sql, target: str, timestamp: str | None, task: Task | None, force: bool
) -> None:
    """Write schema.yaml for the source, and params.yaml and dvc.yaml so that the project reads it.

    Tests of behaviour.yaml that do not fit the new contract are replaced by an example. Nothing is
    written if anything is wrong.
    """
    if SCHEMA.exists() and not force:
        raise Failure(
            f"{SCHEMA} is there already; to replace it, and what params.yaml reads, add --force"
        )
    if isinstance(source, str) and Path(source).resolve() in {
        path.resolve() for path in files.OUTPUTS
    }:
        raise Failure(f"{source} is written by the pipeline: keep your table elsewhere")
    if target == timestamp:
        raise Failure(f"{target!r} cannot be both target and timestamp")
    console = Console(stderr=True)
    with (
        nullcontext() if isinstance(source, Sql) else local(source) as copy,
        console.status("reading") as status,
    ):
        known = TableProfile()
        for known in profile_table(batches(source, copy=copy), target, timestamp):
            status.update(f"looking: {known.rows:,} rows")
        document, reasons = propose_table(known, name_of(source), target, timestamp, task)
        schema = parse_yaml(as_yaml(document, format_source(source)), str(SCHEMA), Schema)
        params = new_params(as_written(source), schema)
        status.update("looking for repeated rows")
        split_params = parse_yaml(params, str(PARAMS), Params).split
        shares = measure(batches(source, schema.missing, copy), schema, split_params)
    columns = document.pop("columns")
    document |= {key: allowed(share) for key, share in shares.items()} | {"columns": columns}
    text = as_yaml(document, format_source(source))
    schema = parse_yaml(text, str(SCHEMA), Schema)
    tests, said = new_behaviour(schema)
    written = {SCHEMA: text, PARAMS: params, DVC: new_pipeline(as_written(source), schema)}
    written |= {BEHAVIOUR: tests} if tests else {}
    for path, content in written.items():
        files.write_text(path, content)
    files.ACCEPTED.unlink(missing_ok=True)  # of the table before
    show(schema, reasons, known.rows, shares, said)
    print(f"written: {', '.join(map(str, written))}; next: uv run {current_project().name} demo")


def allowed(share: float) -> float:
    """Return a limit for a share, with slack for other rows of the same kind, that can be exceeded."""
    return min(ceil((1.5 * share + 0.01) * 1000), ceil((1 + share) / 2 * 1000)) / 1000


def show(
    schema: Schema, reasons: Mapping[str, str], rows: int, shares: Mapping[str, float], tests: str
) -> None:
    """Print what was decided, and why."""
    console, name = Console(highlight=False), Head("column", overflow="fold")
    table = Table(name, "type", "role", "limits or categories", "null", "why")
    for key, column in schema.columns.items():
        held = shorten(", ".join(column.categories or ()), 60, placeholder=" ...")
        if column.minimum is not None or column.maximum is not None:
            held = f"{column.minimum:,.12g} to {column.maximum:,.12g}"
        cells = (
            key,
            column.type,
            column.role,
            held,
            "yes" if column.nullable else "",
            reasons[key],
        )
        table.add_row(*map(escape, cells), style="dim" if column.role == "ignored" else None)
    console.print(table)
    by_time = schema.timestamp
    repeated = "{max_duplicates:.1%} of the rows, {max_overlap:.1%} of the test's in training, too"
    facts = {
        "task": schema.task + (f", positive class {schema.positive!r}" if schema.positive else ""),
        "target": schema.target,
        "split": f"by time, of {by_time!r}" if by_time else "at random, as there is no timestamp",
        "rows": f"{rows:,}, at least {schema.min_rows:,} are asked for",
        "repeated": repeated.format(**shares),
        "limits": f"what was seen, and up to {SLACK:.0%} of its range more on either side",
        "missing": " and ".join(map(repr, schema.missing)),
        "tests": tests,
    }
    if shares["max_overlap"] > 0.05:
        facts["repeated"] += ": results will be better than on new rows"
    if found := people(schema):
        names = ", ".join(map(repr, found))
        facts["people"] = (
            f"{names}: if told apart by it, `protected: true` in {SCHEMA} has that watched"
        )
    for key, fact in facts.items():
        console.print(f"{key:9} {escape(fact)}", soft_wrap=True)
