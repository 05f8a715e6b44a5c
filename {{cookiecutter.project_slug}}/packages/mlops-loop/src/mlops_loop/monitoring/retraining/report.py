"""Report: what a retraining decided and what came of it, as Markdown for a pull request.

The text is `retraining.md` among the templates of `reporting`.
"""

from mlops_loop.base import files
from mlops_loop.base.files import REPORTS
from mlops_loop.base.project import current_project
from mlops_loop.monitoring.retraining.document import Retraining
from mlops_loop.reporting import markdown, page
from mlops_loop.training.card.promotion import gate_rows

FOLDER = REPORTS / "retrain"


def write(document: Retraining) -> Retraining:
    """Write summary.json, summary.md and, without charts, summary.html; return the document."""
    values = files.plain(document.model_dump(mode="json"))
    files.write_json(FOLDER / "summary.json", values)
    files.write_text(FOLDER / "summary.md", text(document, charts=True))
    path = page.PAGES["Retraining"]
    body = markdown.to_html(text(document, charts=False))
    facts = [f"until {document.until}", document.result]
    html = page.compose(path, "document.html", title="Retraining", facts=facts, body=body)
    files.write_text(path, html)
    page.write_overview()
    print(f"summary: {FOLDER}/summary.md")
    return document


def text(document: Retraining, charts: bool) -> str:
    """Return why, on what, how good, what the gates say, and how to undo it."""
    return markdown.render(
        "retraining.md",
        project=current_project().name,
        summary=document,
        found=document.evidence,
        limits=document.limits,
        gates=gate_rows(document.gates or ()),
        charts=charts,
    )
