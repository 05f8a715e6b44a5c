"""What `audit` shows: the log's lines, and whether they and the registry agree."""

import sys

import sqlalchemy as sa
from mlflow import MlflowClient
from rich.markup import escape
from rich.table import Table

from mlops_loop.base.errors import Refusal
from mlops_loop.base.settings import load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.release import audit, registry
from mlops_loop.release.champion import anchors
from mlops_loop.tracking.session import experiment_name, session

SHOWN = 5  # problems in the line of a refusal


def problems(client: MlflowClient, log: sa.Engine) -> list[str]:
    """Return what is wrong with the audit log, in itself and beside the registry."""
    name = experiment_name()
    champion = registry.by_alias(client, "champion")
    if found := audit.verify(log, name, anchors(client)):
        return found
    move = audit.last(log, name, *audit.MOVES)
    if champion and (not move or str(champion.version) != move.version):
        known = f"the registry's champion is version {champion.version}"
        return [f"{known}, but the log has no promotion of it"]
    return []


def show_audit(lines: int, as_json: bool) -> None:
    """Print the audit log; raise a Refusal if it, or the registry, was tampered with."""
    settings = load_settings()
    name = experiment_name()
    log = audit.open_audit(settings.prediction_log_url)
    with session(settings) as client:
        found = problems(client, log)
    if as_json:
        for entry in audit.read(log, name):
            print(entry.as_json())
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = "; ".join(found[:SHOWN])
        raise Refusal(f"the audit log cannot be trusted: {listed}{more}; {audit.MEND}")
    if not as_json:
        print_lines(audit.newest(log, name, lines))
    print("every line is in its place, and the registry agrees", file=sys.stderr)


def print_lines(lines: list[audit.Line]) -> None:
    table = Table("line", "when", "what", "version", "by", "commit", "why")
    for line in lines:
        commit, _, dirty = (line.git_commit or "").partition("-")
        commit = commit[:10] + "-dirty" * bool(dirty)
        time = line.time[:19].replace("T", " ")
        cells = (str(line.number), time, line.event, line.version, line.by, commit, line.reason)
        table.add_row(*map(escape, cells))
    open_console().print(table)
