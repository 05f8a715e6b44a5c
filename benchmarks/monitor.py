"""Monitor: a window of a million logged predictions, against reading all of it into Evidently.

Run in a rendered project, in its environment, when its bundle is promoted (`make bench` does that):

    python monitor.py PACKAGE [--rows 1000000] [--rounds 3]

A log of SQLite is filled with the rows of the test window over seven days, half of them with
outcomes. `monitor` and what one would write instead - read_sql, Evidently's drift preset on every
row, scikit-learn's ROC AUC - look at it in turn, each in a process of its own. Printed are the
medians of seconds, the largest peak of memory, and the ratios.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from measured import CHAMPION, use
from mlops_loop.base.files import TEST
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import tables
from mlops_loop.prediction_log.connection import open_log
from mlops_loop.prediction_log.predictions import Entry, insert_predictions, to_lines
from mlops_loop.prediction_log.tables import OUTCOMES
from mlops_loop.scoring.bundle import open_bundle
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import columns

BATCH = 1000  # rows in a request
MADE = 1_000_000  # rows that are made one by one; of more, the others are copies with other ids
COPY = {
    "predictions": "key_name, model_version, variant, paired_with, features, output, latency_ms",
    "outcomes": "value",
}
LOG = Path("bench-predictions.db")
PLAIN = """
import json, sqlite3, sys
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from sklearn.metrics import roc_auc_score
(log,) = sys.argv[1:]
rows = pd.read_sql(
    "SELECT features, output, value FROM predictions LEFT JOIN outcomes ON prediction_id = id",
    sqlite3.connect(log),
)
current = pd.DataFrame(rows["features"].map(json.loads).tolist())
reference = pd.read_parquet("build/champion/reference.parquet")
times = reference.select_dtypes("datetime").columns
current = current[[name for name in current if name in reference and name not in times]]
reference = reference[list(current)]
numbers = [name for name in current if pd.api.types.is_numeric_dtype(reference[name])]
texts = [name for name in current if name not in numbers]
types = dict.fromkeys(numbers, "float64") | dict.fromkeys(texts, "str")
defined = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
tables = (current.astype(types), reference.astype(types))
parts = [Dataset.from_pandas(table, data_definition=defined) for table in tables]
report = Report([DataDriftPreset(columns=list(current))]).run(*parts)
report.save_html("bench-plain.html")
known = rows[rows["value"].notna()]
truth = known["value"].map(json.loads)
scores = known["output"].map(lambda text: json.loads(text)["probabilities"])
positive = "late"
print(roc_auc_score(truth == positive, scores.map(lambda share: share[positive])))
"""
OURS = """
from mlops_loop.monitoring.monitor import monitor
found = monitor(7)
print(found.metric("roc_auc").value, found.rows)
"""
MEASURED = """
import resource, sys
exec(sys.argv.pop(1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def fill(rows: int, folder: Path = CHAMPION) -> None:
    """Write so many predictions of the last week, every other one with its outcome.

    More than MADE are a multiple of it.
    """
    schema = load_schema()
    bundle = open_bundle(folder)
    table = tables.read_table(TEST)
    outputs = open_scorer(bundle).score(columns(table, schema))
    features = tables.as_json(table, schema)
    truth = table[schema.target].tolist()
    for path in Path().glob(f"{LOG}*"):
        path.unlink()
    engine = open_log(f"sqlite:///{LOG}")
    end = datetime.now(UTC)
    made = min(rows, MADE)
    for first in range(0, made, BATCH):
        places = [(first + number) % len(table) for number in range(min(BATCH, made - first))]
        lines = to_lines(
            [outputs[place] for place in places], [features[place] for place in places]
        )
        prefix, at = f"{first:028x}", end - timedelta(days=7 * (1 - (first + 1) / (made + 2)))
        facts = prefix, at, None, bundle.version, "champion", None, 1.0
        ids = [f"{prefix}{number:04x}" for number in range(len(places))]
        with engine.begin() as connection:
            insert_predictions(connection, [Entry(*facts, lines)])
            outcomes = [
                {"prediction_id": name, "value": truth[place], "time": end}
                for name, place in list(zip(ids, places, strict=True))[::2]
            ]
            connection.execute(OUTCOMES.insert(), outcomes)
    for copy in range(1, rows // made):
        with engine.begin() as connection:
            for name_of_table, others in COPY.items():
                name = "id" if name_of_table == "predictions" else "prediction_id"
                connection.exec_driver_sql(
                    f"INSERT INTO {name_of_table} ({name}, time, {others}) "
                    f"SELECT '{copy:08x}' || substr({name}, 9), time, {others} "
                    f"FROM {name_of_table} WHERE {name} < '00000001'"
                )


def measure(code: str) -> tuple[float, float, str]:
    """Return seconds, megabytes and what was printed."""
    started = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, code, str(LOG)]
    env = os.environ | {"PREDICTION_LOG_URL": f"sqlite:///{LOG}", "BUNDLE": str(CHAMPION)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    *said, memory = done.stdout.split()
    return time.perf_counter() - started, int(memory) / 1024, " ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("package")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    use(options.package)
    fill(options.rows)
    print(f"{options.rows:,} predictions, {LOG.stat().st_size / 2**20:,.0f} MiB of log", flush=True)
    found: dict[str, list[tuple[float, float, str]]] = {"monitor": [], "read all": []}
    for _ in range(options.rounds):
        for name, code in (("monitor", OURS), ("read all", PLAIN)):
            found[name].append(measure(code))
    medians = {}
    for name, runs in found.items():
        seconds = statistics.median(run[0] for run in runs)
        memory = max(run[1] for run in runs)
        medians[name] = seconds, memory
        print(f"{name:10} {seconds:7.1f} s {memory:7.0f} MiB   {runs[-1][2]}")
    ratios = [medians["read all"][place] / medians["monitor"][place] for place in (0, 1)]
    print(f"read all takes {ratios[0]:.1f} times the time and {ratios[1]:.1f} times the memory")
    for path in [*Path().glob(f"{LOG}*"), Path("bench-plain.html")]:
        path.unlink()


if __name__ == "__main__":
    main()
