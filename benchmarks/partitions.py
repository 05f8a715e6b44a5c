"""Partitions: ingest when one of many is new, against all of them; memory at two sizes.

Run in a rendered project, in its environment, when its pipeline ran (`make bench` does that):

    python partitions.py PACKAGE [--partitions 50] [--rows 100000] [--rounds 3] [--output ..]

The folder is on a disk: from an object store, where files are fetched too, the ratio is smaller.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
from measured import use

INGEST = """
import resource, sys, time
from pathlib import Path
from mlops_loop.base import project
from mlops_loop.base.params import IngestParams
from mlops_loop.contract.schema import load_schema
from mlops_loop.data import ingest
from PACKAGE.project import PROJECT
project.use(PROJECT)
begun = time.perf_counter()
rows = ingest.store(load_schema(), IngestParams(source=sys.argv[1]), Path(sys.argv[2])).rows
seconds = time.perf_counter() - begun
unit = 2**20 if sys.platform == "darwin" else 2**10
print(rows, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
"""


def write_partition(folder: Path, table: pd.DataFrame, number: int, rows: int) -> None:
    path = folder / f"part={number:04}" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    repeated = pd.concat([table] * (rows // len(table) + 1), ignore_index=True)
    repeated.head(rows).to_parquet(path, index=False)


def ingest(package: str, source: Path, target: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory in MiB of an ingest in a process of its own."""
    command = [sys.executable, "-c", INGEST.replace("PACKAGE", package), str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise SystemExit(done.stderr)
    _, seconds, peak = map(float, done.stdout.splitlines()[-1].split())
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("--partitions", type=int, default=50)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(".."))
    given = parser.parse_args()
    use(given.package)
    work = given.output.resolve() / "partitions"
    shutil.rmtree(work, ignore_errors=True)
    table = pd.read_parquet("data/test.parquet")
    kept, raw = Path("build/partitions"), work / "raw.parquet"
    peaks = {}
    for share in (0.2, 1):  # of the partitions
        many = max(2, int(given.partitions * share))
        folder = work / f"{many}"
        for number in range(many - 1):
            write_partition(folder, table, number, given.rows)
        whole, added = [], []
        for _ in range(given.rounds):
            shutil.rmtree(folder / f"part={many - 1:04}", ignore_errors=True)
            shutil.rmtree(kept, ignore_errors=True)
            ingest(given.package, folder, raw)
            write_partition(folder, table, many - 1, given.rows)
            added.append(ingest(given.package, folder, raw))
            one_by_one = raw.read_bytes()
            shutil.rmtree(kept)
            whole.append(ingest(given.package, folder, raw))
            if raw.read_bytes() != one_by_one:
                raise SystemExit("an ingest of what is new differs from one of the whole")
        new, every = (statistics.median(seconds for seconds, _ in each) for each in (added, whole))
        peaks[many] = max(peak for _, peak in whole)
        print(
            f"{many} partitions of {given.rows:,} rows: whole {every:.1f} s, one new {new:.1f} s "
            f"({new / every:.2f}), peak {peaks[many]:,.0f} MiB",
            flush=True,
        )
        shutil.rmtree(folder)
    (few, small), (many, large) = peaks.items()
    print(f"peak memory of {many} to {few} partitions: {large / small:.2f}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
