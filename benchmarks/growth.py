"""Growth: the figures of a file of unit costs as the tables of docs/scaling.md.

`python growth.py FILE` prints them.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from table import table

Found = dict[str, Any]
SERVING = {
    "CPU of a request, ms": "request_ms",
    "CPU of each row in it, ms": "row_ms",
    "a request with one row alone, mean, ms": "latency_ms",
    "a request with one row alone, p95, ms": "latency_p95_ms",
    "memory of a server, MiB": "serving_mib",
    "CPU of `score` for a million rows, s": "score_seconds",
    "memory of `score`, MiB": "score_mib",
    "log (SQLite) for each prediction, bytes": "log_bytes",
}


PENDING = "Not measured yet: run `make bench-scale`."
HEAD = ["requests/s", "CPU ms", "busy", "mean: predicted, ms", "measured", "ratio"]
HEAD += ["p95: predicted, ms", "measured", "ratio", "client's own delay, p95"]


def fill(page: Path, name: str, text: str) -> None:
    """Replace what stands between <!-- name --> and <!-- /name --> in a page."""
    marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    filled, count = marks.subn(
        lambda found: found[1] + text.strip() + "\n" + found[2], page.read_text("utf-8")
    )
    if count != 1:
        raise SystemExit(f"{page}: one <!-- {name} --> ... <!-- /{name} --> is missing")
    page.write_text(filled, encoding="utf-8")


def queue(found: Found) -> str:
    """Return what was predicted for one worker, and what was measured."""
    if not found["runs"]:
        return PENDING
    lines = list[list[str]]()
    for run in found["runs"]:
        line = [f"{run['rate']:.0f}", f"{run['cpu']:.2f}", f"{run['busy']:.0%}"]
        for name in ("mean", "p95"):
            predicted, measured = run[f"{name}_predicted"], run[name]
            line += [f"{predicted:.2f}", f"{measured:.2f}", f"{predicted / measured:.2f}"]
        lines.append([*line, f"{run['late']:.2f}"])
    return f"Measured at a load average of {found['load']}.\n\n{table(HEAD, lines)}"


def growth(found: Found) -> str:
    """Return what each stage costs by the rows of its table, and how that grows."""
    runs = found["stages"]
    if len(runs) < 2:
        return PENDING
    start, *sizes = sorted(runs, key=int)
    largest = sizes[-1]
    lines = list[list[str]]()
    for name, power in found["exponents"].items():
        line = [f"`{name}`"]
        for rows in (start, *sizes):
            line += [f"{runs[rows][name]['cpu']:.1f}", f"{runs[rows][name]['mib']:.0f}"]
        more = runs[largest][name]["cpu"] - runs[start][name]["cpu"]
        million = more / (int(largest) - int(start)) * 1e6
        lines.append([*line, f"{million:.1f}", "-" if power is None else f"{power:.2f}"])
    head = ["stage"]
    for rows in (start, *sizes):
        head += [f"{int(rows):,} rows: CPU s", "MiB"]
    head += ["CPU s a million more", "exponent"]
    return f"Measured on {found['machine']}.\n\n{table(head, lines)}"


def markdown(found: Found) -> str:
    costs = found["costs"]
    units = [[text, f"{costs[key]:g}"] for text, key in SERVING.items()]
    about = f"Serving and scoring, measured on {costs['about']}:\n"
    return "\n".join([growth(found), about, table(["unit", "cost"], units)])


if __name__ == "__main__":
    figures = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(markdown(figures), queue(figures["queue"]), sep="\n")
