"""Table: the rounds of the servers as Markdown. A ratio says how many times better we are."""

from collections.abc import Collection
from statistics import median
from typing import Any

SUMMARY = 8  # connections of the first table
Found = dict[str, Any]


def table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def of(found: Found, server: str, name: str) -> float:
    """Return the median of a number that each run of a server has one of."""
    return float(median(run[name] for run in found["rounds"] if run["server"] == server))


def fits(load: Found, cell: tuple[int, int]) -> bool:
    return (load["rows"], load["connections"]) == cell


def under(found: Found, server: str, cell: tuple[int, int], name: str) -> float:
    """Return the median of a number that a server has under a load of (rows, connections)."""
    runs = [run for run in found["rounds"] if run["server"] == server]
    loads = [load for run in runs for load in run["loads"]]
    return float(median(load[name] for load in loads if fits(load, cell)))


def cells(found: Found, server: str) -> list[tuple[int, int]]:
    """Return the (rows, connections) that a server was loaded with."""
    runs = [run for run in found["rounds"] if run["server"] == server]
    return sorted({(load["rows"], load["connections"]) for run in runs for load in run["loads"]})


def times(number: float) -> str:
    return f"{number:.{2 if number < 1 else 1}f}x"


def faster(found: Found, ours: str, peer: str, cell: tuple[int, int]) -> float:
    rate = "requests_per_second"
    return under(found, ours, cell, rate) / under(found, peer, cell, rate)


def summary(found: Found, ours: str, peers: list[str]) -> str:
    """Return the ratios at SUMMARY connections, and those of cold start, memory and install."""
    chosen = [cell for cell in cells(found, ours) if cell[1] == SUMMARY]
    size = found["install"]
    lines = [
        [peer]
        + [times(faster(found, ours, peer, cell)) for cell in chosen]
        + [
            times(of(found, peer, what) / of(found, ours, what))
            for what in ("cold_start", "memory")
        ]
        + [times(size[peer] / size[ours])]
        for peer in peers
    ]
    head = [f"{rows} row{'s' * (rows > 1)}" for rows, _ in chosen]
    return table(["against", *head, "cold start", "memory", "install"], lines)


def costs(found: Found, servers: list[str]) -> str:
    lines = list[list[str]]()
    for server in servers:
        cold, used = of(found, server, "cold_start"), of(found, server, "memory")
        lines.append([server, f"{cold:.2f}", f"{used:.0f}", f"{found['install'][server]:.0f}"])
    return table(["server", "cold start, s", "memory, MiB", "install, MiB"], lines)


def loads(found: Found, ours: str, servers: list[str]) -> str:
    """Return a line for each load of each server."""
    lines = list[list[str]]()
    for cell in cells(found, ours):
        for server in [server for server in servers if cell in cells(found, server)]:
            rate, used, p50, p99, failed = (
                under(found, server, cell, what)
                for what in ("requests_per_second", "cpu", "p50", "p99", "failed")
            )
            cheaper = used / under(found, ours, cell, "cpu")
            line = [*map(str, cell), server, f"{rate:,.0f}"]
            line += [times(faster(found, ours, server, cell)), f"{used:.2f}", times(cheaper)]
            lines.append([*line, f"{p50:.1f}", f"{p99:.1f}", f"{failed:.0f}"])
    head = ["rows", "connections", "server", "requests/s", "ratio", "CPU s per 1000", "ratio"]
    return table([*head, "p50, ms", "p99, ms", "failed"], lines)


def variants(found: Found, ours: str, others: list[str]) -> str:
    """Return our server's requests/s beside its variants', and their share of it."""
    lines = list[list[str]]()
    for other in others:
        for cell in cells(found, other):
            rate = under(found, other, cell, "requests_per_second")
            base = under(found, ours, cell, "requests_per_second")
            ratio = f"{rate / base:.2f}"
            lines.append([other, *map(str, cell), f"{rate:,.0f}", f"{base:,.0f}", ratio])
    head = ["variant", "rows", "connections", "requests/s", "of one worker with log", "ratio"]
    return table(head, lines)


def report(found: Found, ours: str, others: Collection[str]) -> str:
    """Return the whole report; `others` are variants of our server."""
    about = found["facts"]
    measured = list(dict.fromkeys(run["server"] for run in found["rounds"]))
    names = [name for name in measured if name not in found["absent"]]
    servers = [name for name in names if name not in others]
    head = (
        f"Medians; rounds: {about['rounds']}; each load {about['seconds']} s or more, by "
        f"{about['load_tool']}; {about['machine']}, Python {about['python']}, load average "
        f"before it {about['load_before']}. One worker and one thread each. This project's server "
        "validates every row and keeps each prediction in its durable log (SQLite); the others "
        "keep nothing. Memory is that of all processes of a server (PSS) after the loads; a cold "
        "start ends with the first prediction.\n"
    )
    parts = [
        "# Serving\n",
        head,
        f"This project is better by (requests/s at {SUMMARY} connections):\n",
        summary(found, ours, [name for name in servers if name != ours]),
        costs(found, servers),
        loads(found, ours, servers),
        variants(found, ours, [name for name in names if name in others]),
    ]
    parts += [f"Not measured: {name}: {reason}\n" for name, reason in found["absent"].items()]
    return "\n".join(parts)
