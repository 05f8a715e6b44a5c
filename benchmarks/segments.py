"""Segments: training a model for each of 20 categories, with two workers against one.

Run in a rendered project, in its environment, after its pipeline (`make bench` does that):

    OMP_NUM_THREADS=1 python segments.py PACKAGE [--rows 300000] [--segments 20] [--rounds 3]

The rows are those of the project's source, repeated or cut, with a made-up column of categories
of unequal size beside them. Each training runs in a process of its own, one worker and two in turn,
and times what `train` does between comparing candidates and saving the model, when the workers have
started, too; both must save the same bytes. Printed are the medians of seconds, and the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measured import use

NAME = "segment"


def train(rows: int, segments: int) -> None:
    """Train once; print seconds, the number of models and the hash of the file."""
    from mlops_loop.base import files
    from mlops_loop.base.params import SegmentParams, load_params
    from mlops_loop.contract.schema import Column, load_schema
    from mlops_loop.data import tables
    from mlops_loop.scoring.segmented_model import start_workers
    from mlops_loop.scoring.skops_model import save
    from mlops_loop.training.fit import fit

    names = tuple(f"s{place:02}" for place in range(segments))
    paths = (files.TRAIN, files.VALIDATION, files.TEST)
    table = pd.concat(map(tables.read_table, paths), ignore_index=True)
    table = table.take(np.resize(np.arange(len(table)), rows)).reset_index(drop=True)
    shares = np.linspace(1, 3, segments)
    drawn = np.random.default_rng(0).choice(names, rows, p=shares / shares.sum())
    table[NAME] = pd.array(drawn, dtype="str")
    schema = load_schema()
    column = Column(type="category", categories=names)
    schema = schema.model_copy(update={"columns": schema.columns | {NAME: column}})
    start_workers().join()  # `train` does while it reads and compares
    start = time.perf_counter()
    model = fit(table, schema, load_params().train, SegmentParams(column=NAME))
    seconds = time.perf_counter() - start
    path = Path(f"segments-{os.getpid()}.skops")
    save(model, path)
    found = {"seconds": seconds, "models": len(model.models_), "sha256": files.sha256(path)}
    path.unlink()
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("package")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="train in this process")
    options = parser.parse_args()
    use(options.package)
    if options.once:
        train(options.rows, options.segments)
        return
    seconds: dict[int, list[float]] = {1: [], 2: []}
    hashes = set()
    for number in range(options.rounds):
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            found = json.loads(
                subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--once"],
                    env=os.environ | {"LOKY_MAX_CPU_COUNT": str(workers)},
                    check=True,
                    stdout=subprocess.PIPE,
                ).stdout
            )
            seconds[workers].append(found["seconds"])
            hashes.add(found["sha256"])
            print(f"{workers} worker(s): {found['seconds']:.1f} s, {found['models']} models")
    one, two = (statistics.median(seconds[workers]) for workers in (1, 2))
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"{options.rows:,} rows: {one:.1f} s with one worker, {two:.1f} s with two")
    print(f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")
    if len(hashes) > 1:
        sys.exit("the model files differ")


if __name__ == "__main__":
    main()
