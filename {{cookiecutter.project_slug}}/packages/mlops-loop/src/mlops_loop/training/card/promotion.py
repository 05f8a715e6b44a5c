"""What a promotion adds to the card: version, gates, who promoted it and when."""

from collections.abc import Iterable
from pathlib import Path

from mlops_loop.base import files
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.reporting import page
from mlops_loop.reporting.formats import moment, number, percent
from mlops_loop.reporting.markdown import Row, table, title, to_html
from mlops_loop.scoring.bundle import CARDS, PromotionFacts

# Which `promote` replaces:
NOT_YET = "Not judged yet: this candidate has not been through `promote`."
FACTS = {
    "version": "version",
    "promoted_by": "promoted by",
    "promoted_at": "promoted at",
    "refused": "refused",
    "git_commit": "commit",
    "dvc_lock": "SHA-256 of dvc.lock",
    "bundle_sha256": "SHA-256 of bundle.json",
    "run_id": "MLflow run",
}
RESULTS = {False: "refused", True: "passed", None: "not judged"}  # in the order of the table


class PromotionRecord(PromotionFacts, frozen=True):
    """What the registry knows of a version, with what its gates say."""

    gates: tuple[GateResult, ...] = ()


def complete(markdown: str, promotion: PromotionRecord) -> str:
    """Return the card with the gates' results, who promoted it and when, and its lineage."""
    values = promotion.model_dump()
    if promotion.promoted_at:
        values["promoted_at"] = moment(promotion.promoted_at)
    known = [(name, str(values[key])) for key, name in FACTS.items() if values[key]]
    added: str = table(["what", "value"], known)
    if promotion.gates:
        heads = ["gate", "measure", "value", "limit", "result"]
        added += "\n\n" + table(heads, gate_rows(promotion.gates))
    before, marker, after = markdown.rpartition(NOT_YET)  # the last one: a contract may quote it
    if marker:
        return before + added + after
    return f"{markdown.rstrip()}\n\n## Promotion\n\n{added}\n"


def gate_rows(gates: Iterable[GateResult]) -> list[Row]:
    """Return the gates as rows, what they refuse first; shares are per cents."""
    rows: list[Row] = []
    for gate in sorted(gates, key=lambda gate: list(RESULTS).index(gate.passed)):
        in_words = percent if gate.measure.startswith("share ") else number
        value = "" if gate.value is None else in_words(gate.value)
        limit = gate.limit
        if gate.relation and gate.number is not None:
            limit = f"{gate.relation} {in_words(gate.number)}"
        rows.append((gate.gate, gate.measure, value, limit, RESULTS[gate.passed]))
    return rows


def card_page(markdown: str, folder: Path, version: str = "") -> str:
    """Return the card as a page; its pictures are in plots/ of `folder`."""
    return page.compose(
        files.BUNDLE / "card.html",
        "document.html",
        names=(),
        title=title(markdown),
        facts=[f"version {version}" if version else "candidate, not promoted"],
        body=to_html(markdown, folder),
    )


def finish(folder: Path, promotion: PromotionRecord) -> dict[str, str]:
    """Complete the card in a bundle's folder; return the new hashes of its files."""
    markdown = complete((folder / "card.md").read_text(encoding="utf-8"), promotion)
    files.write_text(folder / "card.md", markdown)
    files.write_text(folder / "card.html", card_page(markdown, folder, promotion.version))
    return {name: files.sha256(folder / name) for name in sorted(CARDS)}
