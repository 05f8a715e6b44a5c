"""Unit costs: what `capacity` reckons with, and how each stage grows with the rows of its table.

Run in a rendered project, in its environment, when its pipeline has run (`make bench-scale` does
that); it replaces the contract:

    BUNDLE=build/bundle python unit_costs.py PACKAGE FILE PAGE ROWS...

Each stage runs as the user's command on made tables of ROWS rows and 15 columns; `score` takes the
whole table, `monitor` a log of as many predictions. The smallest table shows what a start costs:
growth is fitted to the CPU seconds beyond it. Other work on the machine distorts CPU seconds less
than those of a clock. Written are FILE, the marked parts of PAGE (docs/scaling.md), and these on
stdout. Without ROWS the stages are those that FILE has.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from capacity import compare
from growth import Found, fill, markdown, queue
from measured import use
from mlops_loop.onboarding.capacity.main import lines
from mlops_loop.onboarding.capacity.measure import machine, measure
from mlops_loop.onboarding.capacity.plan import Load, UnitCosts, plan
from scale import table

STAGES = {
    "schema infer": "schema infer table.csv --force --target label --timestamp when",
    **{name: name for name in ("ingest", "validate", "split", "train", "evaluate", "export")},
    "score": "score data/raw.parquet scores.parquet",
    "monitor": "monitor",
}
LOG = "bench-predictions.db"  # as monitor.py calls it
FILL = """
import sys
from pathlib import Path
from measured import use
use(sys.argv[1])
from monitor import fill
fill(int(sys.argv[2]), Path("build/bundle"))
"""
# Runs a command and prints how it ended, its seconds, CPU seconds and peak MiB, with its children.
MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
print(json.dumps([done.returncode, seconds, used.ru_utime + used.ru_stime, peak, done.stderr]))
"""


def run(*command: str) -> dict[str, float]:
    """Run a command; return its seconds, CPU seconds and peak MiB."""
    env = os.environ | {"BUNDLE": "build/bundle", "PREDICTION_LOG_URL": f"sqlite:///{LOG}"}
    env["PYTHONPATH"] = str(Path(__file__).parent)
    probe = [sys.executable, "-c", MEASURE, *command]
    said = subprocess.run(probe, capture_output=True, text=True, check=True, env=env).stdout
    code, seconds, cpu, peak, error = json.loads(said)
    if code not in (0, 3 if command[-1] == "monitor" else 0):  # its verdict is no failure
        raise SystemExit(f"{' '.join(command)[:200]}: exit {code}\n{error[-1000:]}")
    return {"seconds": round(seconds, 1), "cpu": round(cpu, 2), "mib": round(peak)}


def stages(package: str, project: str, rows: int) -> dict[str, dict[str, float]]:
    """Run every stage on a table of so many rows."""
    Path("reports/data/accepted.json").unlink(missing_ok=True)  # of the table before
    table(rows, 15, Path("table.csv"))
    found = {}
    for name, words in STAGES.items():
        if name == "monitor":
            run(sys.executable, "-c", FILL, package, str(rows))
        found[name] = run(project, *words.split())
        print(f"{rows:>12,}  {name:12}  {found[name]}", file=sys.stderr, flush=True)
    for path in Path().glob(f"{LOG}*"):
        path.unlink()
    return found


def exponents(runs: dict[int, dict[str, dict[str, float]]]) -> dict[str, float | None]:
    """Return b of CPU = start + a * rows**b for each stage, from the sizes that tell.

    Those are where it takes a tenth more than the start: less is noise. None where fewer than two
    do.
    """
    start, *sizes = sorted(runs)
    found: dict[str, float | None] = {}
    for name in STAGES:
        begin = runs[start][name]["cpu"]
        more = {rows: runs[rows][name]["cpu"] - begin for rows in sizes}
        more = {rows: cpu for rows, cpu in more.items() if cpu > begin / 10}
        found[name] = None
        if len(more) > 1:
            fitted = np.polyfit(np.log([*more]), np.log([*more.values()]), 1)
            found[name] = round(float(fitted[0]), 2)
    return found


def costs() -> dict[str, str | float]:
    """Return the unit costs of the champion, to three digits."""
    return {
        name: value if isinstance(value, str) else float(f"{value:.3g}")
        for name, value in measure()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("file", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("rows", type=int, nargs="*")
    parser.add_argument("--seconds", type=float, default=20, help="of each load of the server")
    given = parser.parse_args()
    project = str(Path(sys.executable).with_name(use(given.package)))
    found: Found = json.loads(given.file.read_text(encoding="utf-8"))
    found |= {"costs": costs(), "queue": compare(given.seconds, [0.3, 0.6, 0.8])}
    if given.rows:
        stages(given.package, project, min(given.rows))  # what runs first compiles
        busy = os.getloadavg()[1]
        runs = {rows: stages(given.package, project, rows) for rows in sorted(given.rows)}
        found["stages"] = {str(rows): run for rows, run in runs.items()}
        found["exponents"] = exponents(runs)
        busy_after = os.getloadavg()[1]
        found["machine"] = f"{machine()}; load average {busy:.1f} before, {busy_after:.1f} after"
    given.file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    example = lines(plan(Load(5000, 2e9), UnitCosts.model_validate(found["costs"])))
    command = "$ uv run flight-delays capacity --rps 5000 --rows-per-day 2e9"
    fill(given.page, "plan", "\n".join(["```console", command, *example, "```"]))
    fill(given.page, "figures", markdown(found))
    fill(given.page, "queue", queue(found["queue"]))
    print(given.page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
