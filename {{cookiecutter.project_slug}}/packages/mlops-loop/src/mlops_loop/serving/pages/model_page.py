"""The first page: a form made from the contract, the server's state, and the model card."""

import re
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.reporting.formats import percent
from mlops_loop.reporting.page import render
from mlops_loop.scoring.bundle import Bundle, OperatingPoint

SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
# Nothing runs but page.js, which talks to this server only; no other site may frame the page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the next model has another page
}
NO_CARD = Markup("<p>This model has no card: it is from an older version.</p>")


class Field(NamedTuple):
    """A feature of the form, which `value` fills in; None leaves it empty."""

    id: str
    name: str
    column: Column
    value: Value
    hint: str


def field(place: int, name: str, column: Column, value: Value) -> Field:
    hints = [column.description, span(column), "may be empty" if column.nullable else ""]
    return Field(f"f{place}", name, column, value, " · ".join(filter(None, hints)))


def span(column: Column) -> str:
    """Return in words which numbers a column may have, and their unit."""
    low, high = (
        None if limit is None else f"{limit:,.10g}" for limit in (column.minimum, column.maximum)
    )
    limits = f"{low} to {high}" if low and high else f"{low} or more" if low else f"{high} or less"
    if low or high:
        return f"{limits} {column.unit or ''}".strip()
    return f"in {column.unit}" if column.unit else ""


def rule(schema: Schema, point: OperatingPoint) -> str:
    """Return how an answer is to be read, where that does not go without saying."""
    if schema.task == "binary-classification":
        threshold = percent(point.threshold)
        return f"{schema.positive} is answered from a probability of {threshold} on: the mark."
    if schema.classes:
        return ""
    return "The interval is made to hold the truth as often as the card says."


def card(bundle: Bundle) -> Markup:
    """Return the bundle's own card, its headings one level below the page's title."""
    file = bundle.folder / "card.html"
    if not file.is_file():
        return NO_CARD
    text = file.read_text(encoding="utf-8")
    # A bundle of version 1.0.0 has the card in the body, without a head.
    found = re.search(r"<article>(.*)</article>", text, re.DOTALL)
    found = found or re.search(r"<body>(.*)</body>", text, re.DOTALL)
    body = found[1] if found else ""
    return Markup(re.sub(r"(</?h)([1-5])>", lambda tag: f"{tag[1]}{int(tag[2]) + 1}>", body))  # noqa: S704


def html(bundle: Bundle, keyed: bool) -> str:
    """Return the page of a bundle; `keyed` says whether the API asks for a key.

    All texts of the contract are escaped. The card is the bundle's own.
    """
    schema = bundle.schema
    example = bundle.manifest.example
    facts = {} if keyed else {"Facts of this model": "v1/model"}
    return render(
        "model.html",
        title=current_project().name,
        project="",
        links={"Model card": "#card", "API documentation": "docs"} | facts,
        facts=[schema.description],
        version=bundle.version,
        keyed=keyed,
        schema=schema,
        unit=schema.columns[schema.target].unit or "",
        fields=[
            field(place, name, column, example.get(name))
            for place, (name, column) in enumerate(schema.inputs.items())
        ],
        threshold=bundle.operating_point.threshold,
        rule=rule(schema, bundle.operating_point),
        card=card(bundle),
    )
