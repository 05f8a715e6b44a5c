"""The first page: a form made from the contract, the server's state, and the model card."""

import json
import re
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

from markupsafe import Markup

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Value
from mlops_loop.reporting.formats import percent
from mlops_loop.reporting.page import render
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.operating_point import OperatingPoint

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
Attributes = dict[str, str | None]  # of an element; those that are None are left out


@dataclass(frozen=True)
class Field:
    """The labelled input of a feature. Options, of a select, are pairs of text and JSON."""

    name: str
    hint: str
    attributes: Attributes
    options: list[tuple[str, str]] | None = None
    chosen: str = ""
    known: tuple[str, ...] = ()  # proposed where any text is allowed

    @property
    def id(self) -> str:
        return str(self.attributes["id"])


def field(place: int, name: str, column: Column, value: Value) -> Field:
    """Return the input of a feature, filled in with a value (None leaves it empty)."""
    about: Attributes = {
        "id": f"f{place}",
        "data-name": name,
        "aria-describedby": f"f{place}-hint f{place}-error",
        "required": None if column.nullable else "",
    }
    hints = [column.description, span(column), "may be empty" if column.nullable else ""]
    hint = " · ".join(filter(None, hints))
    if column.type in ("number", "integer"):
        return Field(name, hint, about | number_input(column, value))
    if column.type == "timestamp":
        moment = str(value)[:19] if value else None
        return Field(name, hint, about | {"type": "datetime-local", "step": "1", "value": moment})
    known = column.categories or ()
    if column.allow_unknown:
        text: Attributes = {"type": "text", "list": f"f{place}-known", "value": plain(value)}
        return Field(name, hint, about | text, known=known)
    choices: list[tuple[str, Value]] = [(text, text) for text in known]
    choices = choices or [("yes", True), ("no", False)]
    options = [(text, json.dumps(choice)) for text, choice in choices]
    if column.nullable or value is None:
        options.insert(0, ("(none)", ""))
    return Field(name, hint, about, options, "" if value is None else json.dumps(value))


def number_input(column: Column, value: Value) -> Attributes:
    low = column.minimum
    high = column.maximum
    if column.type == "integer":
        low = None if low is None else ceil(low)
        high = None if high is None else floor(high)
    elif isinstance(value, float):
        value = float(f"{value:.4g}")  # an example need not be exact
    return {
        "type": "number",
        "step": "any" if column.type == "number" else "1",
        "min": plain(low),
        "max": plain(high),
        "value": plain(value),
    }


def plain(value: Value) -> str | None:
    """Return a value as text, and a number so that it gives it back: 5.0 as 5."""
    if value is None or isinstance(value, str):
        return value
    return repr(value).removesuffix(".0")


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
