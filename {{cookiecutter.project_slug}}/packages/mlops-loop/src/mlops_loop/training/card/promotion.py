"""What a promotion adds to the card: version, gates, who promoted it and when."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mlops_loop.base import files
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.reporting.markdown import plain
from mlops_loop.reporting.markdown_page import page
from mlops_loop.scoring.bundle import CARDS
from mlops_loop.scoring.promotion import PromotionFacts

NOT_YET = (
    "Not judged yet: this candidate has not been through `promote`."  # which replaces this line
)
FACTS = {
    "version": "version",
    "promoted by": "promoted_by",
    "promoted at": "promoted_at",
    "refused": "refused",
    "commit": "git_commit",
    "SHA-256 of dvc.lock": "dvc_lock",
    "SHA-256 of bundle.json": "bundle_sha256",
    "MLflow run": "run_id",
}
RESULTS = {True: "passed", False: "refused", None: "not judged"}


class PromotionRecord(PromotionFacts, frozen=True):
    """What the registry knows of a version, with what its gates say."""

    gates: tuple[GateResult, ...] = ()


def complete(markdown: str, promotion: PromotionRecord) -> str:
    """Return the card with the gates' results, who promoted it and when, and its lineage."""
    values = promotion.model_dump()
    known = [(name, str(values[key])) for name, key in FACTS.items() if values[key]]
    parts = [text_table(("what", "value"), known)]
    if promotion.gates:
        parts.append(gate_table(promotion.gates))
    before, marker, after = markdown.rpartition(NOT_YET)  # the last one: a contract may quote it
    if not marker:
        before = f"{markdown.rstrip()}\n\n## Promotion\n\n"
        after = "\n"
    return before + "\n\n".join(parts) + after


def gate_table(results: Iterable[GateResult]) -> str:
    rows = []
    for result in results:
        value = "" if result.value is None else f"{result.value:.4g}"
        cells = (result.gate, result.measure, value, result.limit, RESULTS[result.passed])
        rows.append(cells)
    return text_table(("gate", "measure", "value", "limit", "result"), rows)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts; without pandas, which a rollback would have to load."""
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def finish(folder: Path, promotion: PromotionRecord) -> dict[str, str]:
    """Complete the card in a bundle's folder; return the new hashes of its files."""
    markdown = complete((folder / "card.md").read_text(encoding="utf-8"), promotion)
    files.write_text(folder / "card.md", markdown)
    files.write_text(folder / "card.html", page(markdown, folder))
    return {name: files.sha256(folder / name) for name in sorted(CARDS)}
