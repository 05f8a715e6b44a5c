"""Markdown, from templates as the pages are: all that they show is shown as it is."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from mlops_loop.reporting import page
from mlops_loop.reporting.formats import cell, is_figure

Row = Sequence[object]


class Markdown(str):
    """A text that is Markdown already."""

    __slots__ = ()


def plain(text: object) -> Markdown:
    """Return a text so that Markdown shows it as it is: no markup, link or HTML in it counts."""
    if isinstance(text, Markdown):
        return text
    special = r"[\\`*\[\]<&|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # not the _ within a name
    return Markdown(re.sub(special, r"\\\g<0>", " ".join(str(text).split())))


def paragraph(text: object) -> Markdown:
    """Return a text as `plain` does, to begin a line with: no heading, list or quotation."""
    return Markdown(re.sub(r"^(\d*)([-+=#>.)])", r"\1\\\2", plain(text)))


def code(text: object) -> Markdown:
    """Return a text that may stand between backticks."""
    return Markdown(" ".join(str(text).split()).replace("`", "'"))


def table(heads: Sequence[str], rows: Iterable[Row]) -> Markdown:
    shown = list(rows)
    right = [all(is_figure(row[place]) for row in shown) for place in range(len(heads))]
    lines: list[list[str]] = [
        list(map(plain, heads)),
        ["---:" if number else "---" for number in right],
    ]
    for row in shown:
        lines.append(["" if value is None else plain(cell(value)) for value in row])
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


TEMPLATES = page.environment(autoescape=False, finalize=plain)
TEMPLATES.filters |= {"code": code, "markdown": Markdown, "paragraph": paragraph}
TEMPLATES.globals["table"] = table


def render(template: str, **values: object) -> str:
    text = TEMPLATES.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def to_html(markdown: str, folder: Path = Path()) -> Markup:
    """Return Markdown as HTML; its pictures, in plots/ of `folder`, are embedded."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    for image in [
        part for token in tokens for part in token.children or () if part.type == "image"
    ]:
        image.attrs["src"] = embedded(str(image.attrs["src"]), folder)
    html = reader.renderer.render(tokens, reader.options, {})
    html = html.replace("<table>", '<div class="scroll"><table>')
    return Markup(html.replace("</table>", "</table></div>"))  # noqa: S704 - texts are escaped


def title(markdown: str) -> str:
    """Return the first heading, without what `plain` put there."""
    return re.sub(r"\\(.)", r"\1", markdown.partition("\n")[0].removeprefix("# "))


def embedded(source: str, folder: Path) -> str:
    """Return a picture as a data URL; nothing for any other source."""
    if not re.fullmatch(r"plots/[\w-]+\.png", source):
        return ""
    return f"data:image/png;base64,{b64encode((folder / source).read_bytes()).decode()}"
