import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mlops_loop.base import files
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import Column, load_schema
from mlops_loop.reporting.page import TEMPLATES
from mlops_loop.scoring.bundle import Bundle, open_bundle
from mlops_loop.serving.app import create_app
from mlops_loop.serving.pages import model_page
from mlops_loop.training import export

from .conftest import change

HOSTILE = "<script>alert(1)</script> \"quoted\" 'single' <img src=x onerror=alert(1)> &lt; {brace}"
VOID = {"meta", "link", "input", "img", "br", "hr"}


class Reader(HTMLParser):
    """Reads a page into elements, as (tag, attributes), and texts; each tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.texts, self.open = list[tuple[str, dict]](), list[str](), list[str]()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list) -> None:
        assert len(dict(attributes)) == len(attributes)  # none is there twice
        self.elements.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    handle_startendtag = handle_starttag  # <img ... />

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.texts.append(text)

    def all(self, *tags: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture
def bundle(project) -> Bundle:
    return open_bundle(files.BUNDLE)


def read(bundle: Bundle, keyed: bool = False) -> Reader:
    return Reader(model_page.html(bundle, keyed))


def control(name: str, value: Any, **facts: Any) -> Reader:
    """The field of a feature as the page has it."""
    field = TEMPLATES.get_template("parts.html").module.field
    return Reader(field("f0", name, Column.model_validate({"type": "number", **facts}), value))


def test_the_page_has_a_labelled_input_for_each_feature_with_the_example_in_it(bundle) -> None:
    found, example, features = read(bundle), bundle.manifest.example, load_schema().inputs
    inputs = [made for made in found.all("input", "select") if "data-name" in made]
    assert [made["data-name"] for made in inputs] == list(features)
    ids = [made["id"] for _, made in found.elements if "id" in made]
    assert len(set(ids)) == len(ids)
    assert {made["id"] for made in inputs} < {made["for"] for made in found.all("label")}
    for made in inputs:
        name, feature = made["data-name"], features[made["data-name"]]
        assert set(made["aria-describedby"].split()) <= set(ids)
        assert ("required" in made) != feature.nullable
        if feature.type in ("number", "integer") and name in example:
            assert float(made["value"]) == float(f"{example[name]:.4g}")
    chosen = [json.loads(made["value"]) for made in found.all("option") if "selected" in made]
    assert chosen == [
        example[name]
        for name, column in features.items()
        if column.type in ("category", "boolean") and not column.allow_unknown and name in example
    ]


def test_each_type_has_its_own_input() -> None:
    (made,) = control("x", 0.5, minimum=0.1, maximum=1e30, nullable=True).all("input")
    assert (made["type"], made["step"]) == ("number", "any")
    assert (made["min"], made["max"], made["value"]) == ("0.1", "1e+30", "0.5")
    (made,) = control("x", 5.0, type="integer", minimum=0.5, maximum=7.5).all("input")
    assert (made["step"], made["min"], made["max"], made["value"]) == ("1", "1", "7", "5")
    listed = control("x", "b", type="category", categories=["a", "b"]).all("option")
    assert listed == [{"value": '"a"'}, {"value": '"b"', "selected": None}]
    listed = [{"value": ""}, {"value": "true"}, {"value": "false", "selected": None}]
    assert control("x", False, type="boolean", nullable=True).all("option") == listed
    found = control("x", "c", type="category", categories=["a"], allow_unknown=True)
    (made,), (known,) = found.all("input"), found.all("datalist")
    assert (made["type"], made["value"], made["list"]) == ("text", "c", known["id"])
    assert found.all("option") == [{"value": "a"}]


def test_a_hint_tells_limits_in_words() -> None:
    told = control("x", None, minimum=-1500, maximum=0.5, unit="m", nullable=True).texts
    assert "-1,500 to 0.5 · m · may be empty" in told


def test_nothing_that_a_contract_says_becomes_part_of_the_page(project) -> None:
    schema = load_schema()
    usual = read(open_bundle(files.BUNDLE))
    change(files.SCHEMA, name=HOSTILE, description=HOSTILE, limits=HOSTILE)
    for name in schema.inputs:
        change(files.SCHEMA, "columns", name, description=HOSTILE, unit=HOSTILE)
    change(files.SCHEMA, "columns", schema.target, description=HOSTILE)
    export.main()
    found = read(open_bundle(files.BUNDLE))
    assert found.all("script") == [{"src": "page.js", "defer": None}]
    assert not [made for _, made in found.elements if "onerror" in made]
    assert len(found.all("img")) == len(usual.all("img"))
    told = " ".join(found.texts)
    assert told.count(HOSTILE) >= 2 + len(schema.inputs)  # name, description and each hint
    for unknown in (False, True):
        facts = {"type": "category", "categories": [HOSTILE], "allow_unknown": unknown}
        made = control(HOSTILE, HOSTILE, **facts)
        assert made.all("input" if unknown else "select")[0]["data-name"] == HOSTILE
        value = made.all("option")[0]["value"]
        assert (value if unknown else json.loads(value)) == HOSTILE
        assert {text for text in made.texts if text.strip()} == {HOSTILE}


def test_the_page_asks_nobody_else_and_runs_its_own_script_only(bundle) -> None:
    client = TestClient(create_app(), "http://127.0.0.1")  # without its log: a page needs none
    answer, script = client.get("/"), client.get("/page.js")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = "default-src 'none'; script-src 'self'; connect-src 'self';"
    assert policy in answer.headers["Content-Security-Policy"]
    found = read(bundle)
    pages = found.all("script", "link", "img", "a")
    links = [made.get("src", "") + made.get("href", "") for made in pages]
    assert not [link for link in links if re.match(r"^(?!data:)(?:[a-z]+:|//)", link)]
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert not re.search(r"url\(|@import", style)
    for made in found.all("a"):
        if not made["href"].startswith("#"):
            assert client.get(f"/{made['href']}").status_code == 200
    assert script.text == model_page.SCRIPT
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert script.headers["X-Content-Type-Options"] == "nosniff"
    names = set(re.findall(r'\bfind\("([\w-]+)"\)', model_page.SCRIPT))
    assert names <= {made.get("id") for _, made in found.elements}
    writes = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b"
    assert not re.search(writes, model_page.SCRIPT)


def test_the_card_is_on_the_page_and_an_older_bundle_without_one_is_served(bundle) -> None:
    found = read(bundle)
    assert found.texts.count(f"Model card: {current_project().name}") == 1
    assert len(found.all("h1")) == 1  # the page's own
    assert [made for made in found.all("p") if made.get("id") == "no-script"]
    assert all("disabled" in made for made in found.all("button"))  # until the script runs
    (files.BUNDLE / "card.html").unlink()
    assert "This model has no card" in model_page.html(bundle, False)
