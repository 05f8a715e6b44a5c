"""Pages: HTML that needs nothing else to be shown."""

from html import escape
from pathlib import Path

from mlops_loop.base.files import write_text

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; border: 0; margin: 1rem 0 } img { max-width: 49% }
th, td { padding: .3rem .8rem; border: 0; border-bottom: 1px solid #d9e2ec; text-align: left }
td:nth-child(2) { white-space: nowrap }"""


def write_page(path: Path, title: str, *parts: str) -> None:
    """Write an HTML page that needs nothing else to be shown; `parts` are HTML themselves."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    page = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    write_text(
        path, f'<!doctype html><html lang="en"><head>{head}</head><body>{page}</body></html>'
    )
