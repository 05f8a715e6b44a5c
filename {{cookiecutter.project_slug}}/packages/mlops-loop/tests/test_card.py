import re
from html import escape, unescape

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mlops_loop.base import files
from mlops_loop.base.project import current_project
from mlops_loop.contract.schema import load_schema
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.reporting import markdown
from mlops_loop.reporting.formats import cell, in_words, interval
from mlops_loop.training import export
from mlops_loop.training.card import promotion

from .conftest import change, run_stages

# Takes all that it is not kept from.
READER = MarkdownIt("commonmark", {"html": True}).enable("table")
TEXTS = st.text(st.sampled_from("ab1 _*`#|<>[]()!&;~\\-+=.:\"'/é\n"), max_size=25)
HOSTILE = "<script>alert(1)</script> ![x](http://evil/x.png) [a](javascript:b) `b` *c* | d &lt; e"


def texts() -> list[str]:
    """The bundle's card as Markdown and as HTML."""
    return [(files.BUNDLE / name).read_text(encoding="utf-8") for name in ("card.md", "card.html")]


def cells(markdown: str) -> set[str]:
    rows = [line.split("|") for line in markdown.splitlines() if line[:1] == "|"]
    return {cell.strip() for row in rows for cell in row}


@settings(deadline=None)
@given(TEXTS)
def test_any_text_is_shown_as_it_is(text) -> None:
    shown = " ".join(text.split())
    paragraph = unescape(READER.render(markdown.paragraph(text)).strip())
    assert paragraph == (f"<p>{shown}</p>" if shown else "")
    table = READER.render(markdown.table(["a", "b"], [[text, "end"]]))
    assert unescape(table.split("<tbody>")[1].split("</td>")[0]).endswith(f">{shown}")
    assert table.count("<td") == 2
    code = READER.render(f"x `{markdown.code(text)}` y")
    assert not shown or "<script" not in code


def test_what_a_contract_says_cannot_break_its_card(project) -> None:
    schema = load_schema()
    name, values = next(iter(schema.features)), {"description": HOSTILE, "unit": HOSTILE}
    change(files.SCHEMA, name="<b>", description=HOSTILE, limits=f"# {HOSTILE}\n\n- f")
    change(files.SCHEMA, "columns", name, **values)
    change(files.SCHEMA, "columns", schema.target, description=HOSTILE)
    export.main()
    _, html = texts()
    assert html.count(escape(HOSTILE, quote=False)) >= 5
    assert f"<title>Model card: {current_project().name}</title>" in html
    body = html.partition("<article>")[2]
    assert not re.search("<(script|a |em|code>b<|h1>#|li>f)", body)
    assert set(re.findall('<img src="([^,]+)', body)) == {"data:image/png;base64"}


def test_the_card_tells_what_was_found(project) -> None:
    text, html = texts()
    metrics, intervals = files.read_json(files.METRICS), files.read_json(files.INTERVALS)
    known = cells(text)
    for window in ("test", "baseline", "validation"):
        for name, value in metrics[window].items():
            assert {name, str(cell(in_words(name, value)))} <= known
    for low, high in intervals.values():
        assert low < high
        assert interval(low, high) in known
    assert intervals
    assert set(pd.read_csv(files.BEHAVED)["test"]) <= known
    manifest = files.read_json(files.BUNDLE / "bundle.json")
    assert {manifest["params_sha256"], *manifest["data_sha256"].values()} <= known
    for name, expected in manifest["reports_sha256"].items():
        assert files.sha256(files.REPORTS / name) == expected
    assert {"metrics.json", "slices.csv", "plots/importance.csv"} <= set(manifest["reports_sha256"])
    pictures = {path.stem for path in (files.BUNDLE / "plots").iterdir()}
    assert set(re.findall(r"!\[(\w+)\]\(plots/\w+\.png\)", text)) == pictures
    assert html.count('src="data:image/png;base64,') == len(pictures) > 3
    assert promotion.NOT_YET in text


def test_groups_and_slices_are_reported_where_the_contract_marks_them(project) -> None:
    """Values stay as they are, such as NA, 007 and 1e5."""
    assert "### Fairness" not in texts()[0]
    assert pd.read_csv(files.FAIRNESS).empty
    schema = load_schema()
    name = min(schema.categorical, key=lambda name: len(schema.columns[name].categories))
    change(files.SCHEMA, "columns", name, protected=True, slice=True)
    change(files.PARAMS, "evaluate", min_slice_rows=1)
    run_stages("evaluate")
    found = pd.read_csv(files.FAIRNESS)
    assert set(found["column"]) == {name}
    odd = ["NA", "007", "1e5"]
    rows = pd.concat([pd.read_csv(files.SLICES).head(1)] * len(odd)).assign(value=odd)
    files.write_text(files.SLICES, rows.to_csv(index=False))
    export.main()
    text, _ = texts()
    section = text.partition("### Fairness")[2].partition("\n#")[0]
    assert {markdown.plain(group) for group in found["group"].astype(str)} <= cells(section)
    assert set(odd) <= cells(text)


def test_a_promotion_completes_the_card(project) -> None:
    before, _ = texts()
    verdicts = (
        GateResult("slices: a|b", "auc", 0.61234, "> 0.5", passed=True),
        GateResult("size", "MB", 51.0, "<= 50", passed=False),
        GateResult("latency", "off"),
    )
    facts = {"version": "7", "run_id": "r1", "promoted_by": "<ada>", "git_commit": "c0ffee"}
    facts |= {"promoted_at": "2026-11-21T08:00:00+00:00", "dvc_lock": "10c", "gates": verdicts}
    record = promotion.PromotionRecord(**facts, bundle_sha256="5ea1")
    text = promotion.complete(before, record)
    assert promotion.NOT_YET not in text
    assert {"7", "r1", "21 Nov 2026 08:00 UTC", "c0ffee", "10c", "5ea1"} <= cells(text)
    html = promotion.card_page(text, files.BUNDLE)
    assert "<td>&lt;ada&gt;</td>" in html
    rows = [re.findall(r"<td>(.*?)</td>", line) for line in html.replace("\n", "").split("<tr>")]
    assert ["slices: a|b", "auc", "0.6123", "&gt; 0.5", "passed"] in rows
    assert ["size", "MB", "51", "&lt;= 50", "refused"] in rows
    assert ["latency", "off", "", "", "not judged"] in rows
    quoted = promotion.complete(f"{promotion.NOT_YET}\n\n{before}", record)
    assert quoted.startswith(promotion.NOT_YET)  # a contract may say so: ours is the last one
    assert "## Promotion\n\n| what | value |" in promotion.complete("# Older card\n", record)


def test_a_page_embeds_the_pictures_of_the_bundle_only(project) -> None:
    text = "![a](plots/importance.png) ![b](/etc/hosts) ![c](http://x/y.png)"
    html = markdown.to_html(text, files.BUNDLE)
    assert [source[:10] for source in re.findall('src="(.*?)"', html)] == ["data:image", "", ""]
