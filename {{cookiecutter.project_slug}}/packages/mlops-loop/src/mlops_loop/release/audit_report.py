"""What `audit` shows: the log's lines, and whether they and the registry agree."""

import json
import sys
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from mlops_loop.base.errors import Refusal
from mlops_loop.base.settings import load_settings
from mlops_loop.base.terminal import open_console
from mlops_loop.release.audit import MEND, MOVES, AuditLog, Line
from mlops_loop.release.champion import anchors
from mlops_loop.tracking.registry import Registry, open_registry

SHOWN = 5  # problems in the line of a refusal


def problems(registry: Registry, log: AuditLog) -> list[str]:
    """Return what is wrong with the audit log, in itself and beside the registry."""
    if found := log.verify(anchors(registry)):
        return found
    champion = registry.by_alias("champion")
    move = log.last(*MOVES)
    if champion and (not move or champion.number != move.facts.version):
        known = f"the registry's champion is version {champion.number}"
        return [f"{known}, but the log has no promotion of it"]
    return []


def show_audit(newest: int, as_json: bool) -> None:
    """Print the audit log; raise a Refusal if it, or the registry, was tampered with."""
    log = AuditLog(load_settings())
    found = problems(open_registry(load_settings()), log)
    lines = log.lines()
    for line in lines if as_json else ():
        sealed = {"sha256": line.sha256} | ({"signature": line.signature} if line.signature else {})
        print(json.dumps(line.document | sealed, ensure_ascii=False))
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        listed = "; ".join(found[:SHOWN])
        raise Refusal(f"the audit log cannot be trusted: {listed}{more}; {MEND}")
    if not as_json:
        print_lines(lines[max(0, len(lines) - newest) :])
    signed = sum(line.signature is not None for line in lines)
    checked = "with AUDIT_KEY" if log.key else "but AUDIT_KEY is not set to check them"
    print("every line is in its place, and the registry agrees", file=sys.stderr)
    print(f"{signed} of {len(lines)} lines are signed, {checked}", file=sys.stderr)


def print_lines(lines: Sequence[Line]) -> None:
    table = Table("line", "when", "what", "version", "by", "commit", "why")
    for line in lines:
        facts = line.facts
        commit = facts.git_commit or ""
        commit = commit[:10] + "-dirty" * commit.endswith("-dirty")
        time = line.time[:19].replace("T", " ")
        cells = (str(line.number), time, line.event, facts.version, line.by, commit, facts.reason)
        table.add_row(*map(escape, cells))
    open_console().print(table)
