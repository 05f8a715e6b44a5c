"""Monitor: compare a window of the prediction log with the bundle's reference sample."""

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from . import files, tasks
from .bundle import open_bundle
from .errors import Failure
from .files import REPORTS
from .params import load_params
from .schema import Schema
from .serve import log
from .settings import load_settings


class TooFew(Failure):
    """There are not enough predictions to judge."""


def definition(schema: Schema) -> dict[str, list[str]]:
    """Return the columns that are compared by their kind, as Evidently's DataDefinition takes them."""
    # What is sensitive is not in the log, or only as a hash.
    known = {name for name, column in schema.features.items() if not column.sensitive}
    kinds = {
        "numerical_columns": [name for name in schema.numeric if name in known],
        "categorical_columns": [name for name in schema.categorical if name in known],
    }
    kinds[f"{tasks.of(schema).PREDICTION}_columns"].append(schema.prediction)
    return kinds


def compare(current: pd.DataFrame, reference: pd.DataFrame, schema: Schema) -> Any:
    """Return Evidently's drift report on the features and the prediction."""
    with warnings.catch_warnings(action="ignore"):
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        kinds = definition(schema)
        types = dict.fromkeys(kinds["numerical_columns"], "float64")
        types |= dict.fromkeys(kinds["categorical_columns"], "str")
        tables = [table[list(types)].astype(types) for table in (current, reference)]
        # Named, because Evidently would guess; a column without any value cannot be compared.
        named = [name for name in types if all(table[name].notna().any() for table in (current, reference))]
        report = Report([DataDriftPreset(columns=named)], include_tests=True)
        data = (Dataset.from_pandas(table, data_definition=DataDefinition(**kinds)) for table in tables)
        return report.run(*data)


def judge(snapshot: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each column how it was judged: method, score, threshold and drifted."""
    # Distances drift above their threshold, p-values below it: only the test's status tells.
    tests = {test["metric_config"]["params"].get("column"): test for test in snapshot["tests"]}
    judged = {}
    for metric in snapshot["metrics"][1:]:  # the first counts the drifted columns
        facts = {key: metric["config"][key] for key in ("method", "threshold")}
        name, score = metric["config"]["column"], float(metric["value"])
        drifted = str(tests[name]["status"]).endswith("FAIL")
        judged[name] = {**facts, "score": score, "drifted": drifted}
    return judged


def monitor(days: int | None = None) -> dict[str, Any]:
    """Judge the last `days` of predictions (by default monitor.days).

    Writes summary.json and report.html to reports/monitor/<window>/ and returns the summary.
    """
    settings, params = load_settings(), load_params().monitor
    if not Path(settings.bundle).exists():  # this machine has promoted nothing
        from .champion import install_champion

        install_champion(settings)
    bundle = open_bundle(Path(settings.bundle))
    end = datetime.now(UTC)
    start = end - timedelta(days=days or params.days)
    rows = log.read(log.open_log(settings.prediction_log_url), start, bundle.version)
    if len(rows) < params.min_rows:
        raise TooFew(
            f"{len(rows)} predictions of version {bundle.version} since {start:%Y-%m-%d %H:%M} UTC "
            f"are too few to judge: monitor.min_rows in params.yaml asks for {params.min_rows}"
        )
    schema, task = bundle.schema, tasks.of(bundle.schema)
    known = [name for name, column in schema.features.items() if not column.sensitive]
    current = pd.DataFrame([row["features"] for row in rows], columns=known)
    current[schema.prediction] = [task.logged(row["output"], schema) for row in rows]
    reference = files.read_table(bundle.folder / "reference.parquet")
    snapshot = compare(current, reference, schema)
    empty: dict[str, Any] = {"method": "no value at all", "drifted": True}
    columns = dict.fromkeys(current, empty) | judge(snapshot.dict())
    share = sum(column["drifted"] for column in columns.values()) / len(columns)
    folder = REPORTS / "monitor" / f"{start:%Y-%m-%d}--{end:%Y-%m-%d}"
    with files.writing(folder / "report.html") as beside:
        snapshot.save_html(str(beside))
    summary = {
        "model_version": bundle.version,
        "start": start.isoformat(timespec="seconds"),
        "end": end.isoformat(timespec="seconds"),
        "rows": len(rows),
        "drift": share >= params.drift_share,
        "drift_share": share,
        "drift_share_limit": params.drift_share,
        "columns": columns,
        "report": str(folder / "report.html"),
    }
    files.write_json(folder / "summary.json", summary)
    return summary
