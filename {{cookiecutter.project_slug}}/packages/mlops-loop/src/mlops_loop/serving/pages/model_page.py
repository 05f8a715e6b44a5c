"""The first page: a form made from the contract, the server's state, and the model card."""

import json
import re
from html import escape
from math import ceil, floor
from pathlib import Path

from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.values import Row, Value
from mlops_loop.scoring.bundle import Bundle
from mlops_loop.scoring.operating_point import OperatingPoint

SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
# Nothing runs but page.js, which talks to this server only; no other site may frame the page.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the next model has another page
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><link rel="icon" href="data:,"><style>{style}</style>
<script src="page.js" defer></script></head>
<body>
<header>
<h1>{name}</h1>
<p>{description}</p>
<nav><a href="#card">Model card</a>
<a href="status">Status</a><a href="docs">API documentation</a>{facts}</nav>
</header>
<main>
<section id="status" aria-label="Status" data-version="{version}">
<p role="status"><span class="dot"></span><span id="state">Version {version}</span></p>
<dl id="details"></dl>
</section>
<form id="form" aria-labelledby="try" novalidate autocomplete="off">
<h2 id="try">Predict {target}</h2>
<p id="no-script">The form needs JavaScript; the model card below and the API do not.</p>
<div class="fields">{fields}</div>
<div class="send">
<div class="field" id="with-key"{hidden}><label for="key">API key</label>
<input type="password" id="key" aria-describedby="key-hint key-error">
<p class="hint" id="key-hint">Sent with your predictions, and kept nowhere.</p>
<p class="error" id="key-error"></p></div>
<button disabled>Predict</button>
<div id="answer" role="status" tabindex="-1" data-unit="{unit}"></div>
<p class="hint">{rule}</p>
</div>
</form>
<article id="card">{card}</article>
</main>
</body></html>
"""
FIELD = """
<div class="field"><label for="{id}">{name}</label>
{control}
<p class="hint" id="{id}-hint">{hint}</p><p class="error" id="{id}-error"></p></div>"""
NO_CARD = "<p>This model has no card: it is from an older version.</p>"


def attributes(**values: Value) -> str:
    """Return HTML attributes; those that are None are left out."""
    given = {
        name.replace("_", "-"): str(value) for name, value in values.items() if value is not None
    }
    return "".join(f' {name}="{escape(value)}"' for name, value in given.items())


def plain(number: Value) -> str | None:
    """Return a number as text that gives it back, 5.0 as 5."""
    return None if number is None else repr(number).removesuffix(".0")


def options(choices: Row, chosen: Value, empty: bool) -> str:
    """Return the options of a select, whose values are JSON; `empty` adds one for no value."""
    found = ['<option value="">(none)</option>'] if empty else []
    for text, value in choices.items():
        mark = " selected" if value == chosen else ""
        found.append(f"<option{attributes(value=json.dumps(value))}{mark}>{escape(text)}</option>")
    return "".join(found)


def control(column: Column, value: Value, about: dict[str, str]) -> str:
    """Return the input or select for one value; `about` holds its attributes."""
    if column.type in ("number", "integer"):
        low = column.minimum
        high = column.maximum
        if column.type == "integer":
            low = low if low is None else ceil(low)
            high = high if high is None else floor(high)
        kept = attributes(min=plain(low), max=plain(high), value=plain(value))
        step = "any" if column.type == "number" else "1"
        return f'<input type="number" step="{step}"{kept}{attributes(**about)}>'
    if column.type == "timestamp":
        shown = attributes(value=str(value)[:19] if value else None, **about)
        return f'<input type="datetime-local" step="1"{shown}>'
    if column.allow_unknown:  # any text is allowed: what is known is only proposed
        known = "".join(
            f"<option{attributes(value=text)}></option>" for text in column.categories or ()
        )
        names = f"{about['id']}-known"
        shown = attributes(list=names, value=value, **about)
        return f'<input type="text"{shown}><datalist id="{names}">{known}</datalist>'
    choices: Row = {text: text for text in column.categories or ()} or {
        "yes": True,
        "no": False,
    }
    inside = options(choices, value, column.nullable or value is None)
    return f"<select{attributes(**about)}>{inside}</select>"


def span(column: Column) -> str:
    """Return in words which numbers a column may have, and their unit."""
    low, high = (
        None if limit is None else f"{limit:,.10g}" for limit in (column.minimum, column.maximum)
    )
    limits = f"{low} to {high}" if low and high else f"{low} or more" if low else f"{high} or less"
    if low or high:
        return f"{limits} {column.unit or ''}".strip()
    return f"in {column.unit}" if column.unit else ""


def field(place: int, name: str, column: Column, value: Value) -> str:
    """Return the labelled input of a feature, filled in with a value (None leaves it empty)."""
    about = {
        "id": f"f{place}",
        "data_name": name,
        "aria_describedby": f"f{place}-hint f{place}-error",
    }
    if not column.nullable:
        about["required"] = ""
    hints = [column.description, span(column), "may be empty" if column.nullable else ""]
    return FIELD.format(
        id=about["id"],
        name=escape(name),
        control=control(column, value, about),
        hint=escape(" · ".join(hint for hint in hints if hint)),
    )


def rule(schema: Schema, point: OperatingPoint) -> str:
    """Return how an answer is to be read, where that does not go without saying."""
    if schema.task == "binary-classification":
        return f"{schema.positive} is answered from a probability of {point.threshold:.1%} on."
    return (
        "The interval is made to hold the truth as often as the card says."
        if not schema.classes
        else ""
    )


def card(bundle: Bundle) -> str:
    """Return the body of the bundle's card, its headings one level below the page's title."""
    file = bundle.folder / "card.html"
    if not file.is_file():
        return NO_CARD
    body = re.sub(r"^.*<body>|</body>.*$", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"(</?h)([1-5])>", lambda tag: f"{tag[1]}{int(tag[2]) + 1}>", body)


def html(bundle: Bundle, keyed: bool) -> str:
    """Return the page of a bundle; `keyed` says whether the API asks for a key.

    All texts of the contract are escaped. The card is the bundle's own.
    """
    schema = bundle.schema
    example = bundle.manifest.example
    inputs = enumerate(schema.inputs.items())
    return PAGE.format(
        style=STYLE,
        name=escape(current_project().name),
        description=escape(schema.description),
        facts="" if keyed else '<a href="v1/model">Facts of this model</a>',
        version=escape(bundle.version),
        target=escape(schema.target),
        unit=escape(schema.columns[schema.target].unit or ""),
        fields="".join(
            field(place, name, column, example.get(name)) for place, (name, column) in inputs
        ),
        hidden="" if keyed else " hidden",
        rule=escape(rule(schema, bundle.operating_point)),
        card=card(bundle),
    )
