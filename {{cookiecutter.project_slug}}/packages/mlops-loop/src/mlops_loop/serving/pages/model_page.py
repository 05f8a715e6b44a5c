"""The first page: a form made from the contract, the server's state, and the model card."""

import re
from pathlib import Path

from markupsafe import Markup

from mlops_loop.base.project import current_project
from mlops_loop.reporting.page import render
from mlops_loop.scoring.bundle import Bundle

SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
# Nothing runs but page.js, which talks to this server only; no other site may frame the page.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; style-src "
    "'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def card(bundle: Bundle) -> Markup:
    """Return the bundle's own card, its headings one level below the page's title."""
    file = bundle.folder / "card.html"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"<article>(.*)</article>", text, re.DOTALL)
    body = found[1] if found else "<p>This model has no card: it is from an older version.</p>"
    return Markup(re.sub(r"(</?h)([1-5])>", lambda tag: f"{tag[1]}{int(tag[2]) + 1}>", body))  # noqa: S704


def html(bundle: Bundle, keyed: bool) -> str:
    """Return the page of a bundle; `keyed` says whether the API asks for a key."""
    facts = {} if keyed else {"Facts of this model": "v1/model"}
    return render(
        "model.html",
        title=current_project().name,
        project="",
        links={"Model card": "#card", "API documentation": "docs"} | facts,
        facts=[bundle.schema.description],
        version=bundle.version,
        keyed=keyed,
        schema=bundle.schema,
        example=bundle.manifest.example,
        threshold=bundle.operating_point.threshold,
        card=card(bundle),
    )
