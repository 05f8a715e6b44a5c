"""Scale: what a table too large for comfort costs, against DuckDB itself or pandas.

Run in a rendered project, in its environment (`make bench` does that last); it replaces the
contract:

    python scale.py PACKAGE [--rows 1000000] [--columns 15] [--rounds 3] [--steps infer,ingest]

Each step runs in a process of its own, in turn with what one would write instead, on the same made
table. Printed are the medians of seconds, the largest peak of memory, and the ratios.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measured import use

STEPS = ("infer", "ingest", "validate", "split", "score")
INSTEAD = {
    "infer": "DuckDB's SUMMARIZE of the CSV file",
    "ingest": "DuckDB's COPY of the CSV file to Parquet",
    "validate": "the same Great Expectations suite on the whole DataFrame",
    "split": "read_parquet, three masks, to_parquet",
    "score": "read_parquet and the fitted pipeline's predict_proba",
}
PLAIN = {
    "infer": "import duckdb; duckdb.connect().execute(\"SUMMARIZE FROM 'table.csv'\").fetchall()",
    "ingest": """
import duckdb
duckdb.connect().execute("COPY (FROM 'table.csv') TO 'plain.parquet'")
""",
    "validate": """
import great_expectations as gx
from mlops_loop.contract.schema import load_schema
from mlops_loop.data.checks import expectations
table, schema = pd.read_parquet('data/raw.parquet'), load_schema()
table['when'] = table['when'].dt.tz_localize('UTC')
context = gx.get_context(mode='ephemeral')
context.variables.progress_bars = {'globally': False}
asset = context.data_sources.add_pandas('data').add_dataframe_asset('table')
batch = asset.add_batch_definition_whole_dataframe('whole').get_batch({'dataframe': table})
batch.validate(gx.ExpectationSuite('suite', expectations(schema, schema.used, list(table.columns))))
""",
    "split": """
table = pd.read_parquet('data/raw.parquet')
first, second = table['when'].quantile([.6, .8])
for name, rows in {'a': table.when < first, 'b': (table.when >= first) & (table.when < second),
                   'c': table.when >= second}.items():
    table[rows].to_parquet(f'plain-{name}.parquet')
""",
    "score": """
from mlops_loop.base.files import MODEL
from mlops_loop.contract.schema import load_schema
from mlops_loop.scoring import skops_model
table = pd.read_parquet('data/raw.parquet')
scores = skops_model.scores(skops_model.load(MODEL), table, load_schema())
table.assign(p=scores[:, 1]).to_parquet('plain-scores.parquet')
""",
}
OURS = {
    "infer": ["schema", "infer", "table.csv", "--force"],
    "score": ["score", "data/raw.parquet", "scores.parquet"],
}
OURS["infer"] += ["--target", "label", "--timestamp", "when"]
# Runs a command and prints the seconds and the peak memory, in MiB, of it and its children.
MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([done.returncode, seconds, peak, done.stderr[-500:]]))
"""


def table(rows: int, columns: int, path: Path) -> None:
    """Write a table of a time, a label, four categories, and else numbers, two with gaps."""
    for start in range(0, rows, 500_000):
        size, random = min(500_000, rows - start), np.random.default_rng(start)
        numbers = {f"n{place}": random.normal(size=size).round(4) for place in range(columns - 6)}
        for name in ("n7", "n8"):
            numbers[name][random.random(size) < 0.1] = np.nan
        kinds = {f"c{n}": random.choice([f"v{x}" for x in range(5**n)], size) for n in (1, 2)}
        kinds |= {f"d{n}": random.choice(["a", "b", "c"], size) for n in (1, 2)}
        likely = 1 / (1 + np.exp(-numbers["n0"] - numbers["n1"]))
        label = np.where(random.random(size) < likely, "yes", "no")
        when = pd.date_range("2020-01-01", periods=size, freq="s") + pd.Timedelta(seconds=start)
        part = pd.DataFrame({"when": when, "label": label, **numbers, **kinds})
        part.to_csv(path, mode="a" if start else "w", header=not start, index=False)


def imports(step: str) -> str:
    return "" if step in ("infer", "ingest") else "import pandas as pd\n"


def run(*command: str) -> tuple[float, float]:
    """Run a command; return seconds and MiB."""
    probe = [sys.executable, "-c", MEASURE, *command]
    said = subprocess.run(probe, capture_output=True, text=True, check=True).stdout
    code, seconds, peak, error = json.loads(said)
    if code:
        raise SystemExit(f"{' '.join(command)[:200]}: exit {code}\n{error}")
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", default=",".join(STEPS))
    given = parser.parse_args()
    project = str(Path(sys.executable).with_name(use(given.package)))
    started = time.perf_counter()
    table(given.rows, given.columns, Path("table.csv"))
    made = time.perf_counter() - started
    print(f"{given.rows:,} rows x {given.columns} columns made in {made:.0f} s\n")
    print("| step | seconds | MiB | instead | seconds | MiB | ratio of seconds | of MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for step in given.steps.split(","):
        ours = [project, *OURS.get(step, [step])]
        if step == "score":  # needs a model
            for name in ("train", "evaluate", "export"):
                run(project, name)
        plain = [sys.executable, "-c", imports(step) + PLAIN[step]]
        rounds = [(run(*ours), run(*plain)) for _ in range(given.rounds)]
        (mine, my_peak), (other, other_peak) = (
            (statistics.median(s for s, _ in side), max(peak for _, peak in side))
            for side in zip(*rounds, strict=True)
        )
        cells = [step, f"{mine:.1f}", f"{my_peak:,.0f}", INSTEAD[step], f"{other:.1f}"]
        cells += [f"{other_peak:,.0f}", f"{mine / other:.2f}", f"{my_peak / other_peak:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
