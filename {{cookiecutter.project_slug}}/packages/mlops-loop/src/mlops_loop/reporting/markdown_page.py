"""Markdown as an HTML page that needs nothing else to be shown."""

import re
from base64 import b64encode
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 62rem;
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
nav { font-size: 13px; padding-bottom: .75rem; border-bottom: 1px solid #d9e2ec }
nav a { margin-right: 1.25rem } a { color: #0b5cad }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .5rem }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid #d9e2ec }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
table { border-collapse: collapse; margin: .75rem 0; font-size: 13.5px;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #e4e9ef; text-align: left;
  vertical-align: top; overflow-wrap: break-word; max-width: 36rem }
th { background: #f4f6f8; font-weight: 600 }
code { font-size: .92em; background: #f4f6f8; padding: .05em .3em; border-radius: 3px;
  overflow-wrap: anywhere }
img { width: 49%; height: auto; vertical-align: top }
img[alt=importance] { width: 62% } img[alt=dependence] { width: 100% }
@media (max-width: 45rem) { img[alt] { width: 100% } table { display: block; overflow-x: auto } }
@media print { body { max-width: none; font-size: 11px; padding: 0 } nav { display: none }
  table { font-size: 9.5px } img, tr { break-inside: avoid } h2, h3 { break-after: avoid } }
"""


def page(markdown: str, folder: Path) -> str:
    """Return Markdown as an HTML page; its pictures, in plots/ of `folder`, are embedded."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    for image in [
        part for token in tokens for part in token.children or () if part.type == "image"
    ]:
        image.attrs["src"] = embedded(str(image.attrs["src"]), folder)
    body = reader.renderer.render(tokens, reader.options, {})
    title = next(token.content for token in tokens if token.type == "inline")
    title = re.sub(r"\\(.)", r"\1", title)  # the first heading, without what `plain` put there
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


def embedded(source: str, folder: Path) -> str:
    """Return a picture as a data URL; nothing for any other source."""
    if not re.fullmatch(r"plots/[\w-]+\.png", source):
        return ""
    return f"data:image/png;base64,{b64encode((folder / source).read_bytes()).decode()}"
