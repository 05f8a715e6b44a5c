"""Batch: `score` on a million rows against mlflow's pyfunc in chunks of 100,000, same pipeline.

Run in a rendered project, in its environment, when its bundle is promoted (`make bench` does that):

    python batch.py PACKAGE [--rows 1000000] [--rounds 3] [--output ..]

All read and write Parquet, in turn, each in a process of its own, and derive the features; but for
`values sent`, which is `score` on a table that has them: what deriving costs is the difference.
Rates leave imports out, CPU and memory do not. With --rows 10000000 only `score` is measured: for
its memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
from measured import CHAMPION, use, write_sent
from mlops_loop.contract.schema import load_schema

LARGE = 10_000_000  # rows that pandas is not asked for
PYFUNC = """
import sys, time, warnings
from pathlib import Path
warnings.filterwarnings("ignore")
import mlflow, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from mlops_loop.base.files import MODEL
from mlops_loop.contract.schema import load_schema
from mlops_loop.data.derived import with_derived
from mlops_loop.scoring import skops_model
source, target, folder = sys.argv[1:]
schema = load_schema()
fitted = skops_model.load(MODEL)
if not Path(folder).exists():
    method = "predict_proba" if schema.classes else "predict"
    options = {"serialization_format": "cloudpickle", "pyfunc_predict_fn": method}
    mlflow.sklearn.save_model(fitted, folder, **options)
loaded, writer, rows = mlflow.pyfunc.load_model(folder), None, 0
begun = time.perf_counter()
for batch in pq.ParquetFile(source).iter_batches(100_000):
    table = batch.to_pandas()
    given = skops_model.inputs(with_derived(table, schema), schema)
    found = np.asarray(loaded.predict(given)).reshape(len(table), -1)
    for place in range(found.shape[1]):
        table[f"score {place}"] = found[:, place]
    out = pa.Table.from_pandas(table, preserve_index=False)
    writer = writer or pq.ParquetWriter(target, out.schema)
    writer.write_table(out)
    rows += len(out)
writer.close()
print(rows / (time.perf_counter() - begun))
"""
OURS = """
import sys, time
from mlops_loop.batch.score import score
source, target, _ = sys.argv[1:]
begun = time.perf_counter()
found = score(source, target)
print((found.scored + found.rejected) / (time.perf_counter() - begun))
"""


MEASURED = """
import resource, sys
exec(CODE)
used = resource.getrusage(resource.RUSAGE_SELF)
unit = 2**20 if sys.platform == "darwin" else 2**10
print(used.ru_utime + used.ru_stime, used.ru_maxrss / unit)
"""


def write_rows(path: Path, columns: Iterable[str], rows: int) -> None:
    """Write these columns of the test window again and again, until there are enough rows."""
    table = pq.read_table("data/test.parquet", columns=list(columns))
    with pq.ParquetWriter(path, table.schema) as writer:
        for left in range(rows, 0, -len(table)):
            writer.write_table(table.slice(0, left))


def measure(code: str, bundle: Path, *words: str) -> dict[str, float]:
    """Return rows per second, CPU seconds and peak memory in MiB of a process."""
    command = [sys.executable, "-c", MEASURED.replace("CODE", repr(code)), *words]
    env = os.environ | {"BUNDLE": str(bundle)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr)
    # The last two lines: libraries print their progress before.
    rate, used, peak = map(float, " ".join(done.stdout.splitlines()[-2:]).split())
    return {"rows/s": rate, "CPU seconds": used, "peak MiB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(".."))
    given = parser.parse_args()
    work = given.output.resolve() / "batch"
    work.mkdir(parents=True, exist_ok=True)
    use(given.package)
    schema = load_schema()
    inputs = work / f"{given.rows}.parquet"
    write_rows(inputs, schema.inputs, given.rows)
    runs = {"score": (OURS, CHAMPION, inputs)}
    if given.rows < LARGE:
        features = work / f"{given.rows}-features.parquet"
        write_rows(features, schema.features, given.rows)
        runs["values sent"] = OURS, write_sent(work / "sent"), features
        runs["mlflow pyfunc"] = PYFUNC, CHAMPION, inputs
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, (code, bundle, source) in runs.items():
            target = str(work / f"{name}.parquet")
            found[name].append(measure(code, bundle, str(source), target, str(work / "pyfunc")))
    print(report(found, given.rows))


def report(found: dict[str, list[dict[str, float]]], rows: int) -> str:
    """Return the medians as a Markdown table."""
    names = list(found["score"][0])
    lines = [f"| {rows:,} rows | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for server, runs in found.items():
        medians = [statistics.median(run[name] for run in runs) for name in names]
        lines.append(f"| {server} | {' | '.join(f'{value:,.0f}' for value in medians)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
