"""Ray: `score` on a cluster of one worker against two, in turn, and the driver's memory.

Run in a project rendered with compute=ray, in its environment, when its bundle is promoted:

    python ray_score.py PACKAGE [--rows 10000000] [--files 20] [--rounds 3] [--output ..]

Each cluster is a head without CPUs and nodes of one CPU on this machine; a worker scores with one
thread. The rate is that of `score`, with connecting and starting the workers, on a cluster that has
scored something before. The last line compares the driver's peak memory with that at a tenth of
the rows.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch import measure, write_rows
from measured import CHAMPION, use
from mlops_loop.contract.schema import load_schema

NODES = """
import sys
from ray.cluster_utils import Cluster
memory = {"object_store_memory": 200 * 2**20}
cluster = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
)
for _ in range(int(sys.argv[1])):
    cluster.add_node(num_cpus=1, **memory)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
SCORE = """
import sys, time
from mlops_loop.batch.score import score
source, target = sys.argv[1:]
begun = time.perf_counter()
found = score(source, target)
print((found.scored + found.rejected) / (time.perf_counter() - begun))
"""


@contextmanager
def cluster(nodes: int) -> Iterator[None]:
    """Run a cluster, and name it in RAY_ADDRESS."""
    command = [sys.executable, "-c", NODES, str(nodes)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        os.environ["RAY_ADDRESS"] = process.stdout.readline().strip()
        try:
            yield
        finally:
            process.communicate()


def run(source: Path, nodes: int, target: Path) -> dict[str, float]:
    with cluster(nodes):
        for each in (source.with_name("in-first"), source):  # at first Ray starts actors of its own
            for place in (target, target.with_name(f"{target.name}.rejects")):
                shutil.rmtree(place, ignore_errors=True)
            measured = measure(SCORE, CHAMPION, str(each), str(target))
        return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(".."))
    given = parser.parse_args()
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    use(given.package)
    work = given.output.resolve() / "ray-score"
    inputs = {}
    for name, rows in (("in", given.rows), ("in-few", given.rows // 10), ("in-first", 1000)):
        inputs[name] = work / name
        inputs[name].mkdir(parents=True, exist_ok=True)
        for number in range(given.files):
            path = inputs[name] / f"{number:03}.parquet"
            write_rows(path, load_schema().inputs, rows // given.files)
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(given.rounds):
        for nodes, runs in found.items():
            runs.append(run(inputs["in"], nodes, work / "out"))
    few = run(inputs["in-few"], 2, work / "out")
    names = "rows/s | driver: CPU seconds | peak MiB"
    print(f"| {given.rows:,} rows: workers | {names} |\n|---|---|---|---|")
    medians = {}
    for nodes, runs in found.items():
        values = [statistics.median(one[name] for one in runs) for name in runs[0]]
        medians[nodes] = values
        print(f"| {nodes} | {' | '.join(f'{value:,.0f}' for value in values)} |")
    print(f"two workers: {medians[2][0] / medians[1][0]:.2f} times as fast as one")
    print(f"driver's peak: {medians[2][2] / few['peak MiB']:.2f} times that at a tenth of the rows")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
