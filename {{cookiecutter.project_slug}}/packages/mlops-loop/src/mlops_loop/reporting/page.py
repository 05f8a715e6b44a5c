"""Pages: Jinja templates on one base, in HTML that needs nothing else to be shown.

The server renders its page with it: nothing here imports pandas or Matplotlib.
"""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlops_loop.base import files
from mlops_loop.base.files import BUNDLE, REPORTS
from mlops_loop.base.project import current_project
from mlops_loop.reporting import formats

FILTERS = ("cell", "day", "interval", "moment", "number", "percent")  # of formats.py
OVERVIEW = REPORTS / "index.html"
PAGES = {  # what people look at, in the order of the loop
    "Data": REPORTS / "data/validation.html",
    "Evaluation": REPORTS / "evaluation.html",
    "Candidate": BUNDLE / "card.html",
    "Champion": Path("build/champion/card.html"),
    "Monitor": REPORTS / "monitor/index.html",
    "Retraining": REPORTS / "retrain/summary.html",
    "Showcase": REPORTS / "showcase.html",
}
ABOUT = {
    "Data": "each rule of the contract, and whether the data meets it",
    "Evaluation": "the candidate on the test window, against the naive baseline",
    "Candidate": "model card of the newest candidate, before the gates",
    "Champion": "model card of the served version: results, limits, gates, lineage",
    "Monitor": "drift, data quality and decay in the prediction log",
    "Retraining": "what the last retraining decided, and why",
    "Showcase": "one year in production",
}


def environment(
    autoescape: bool = True, finalize: Callable[[object], object] | None = None
) -> Environment:
    found = Environment(
        loader=PackageLoader("mlops_loop.reporting"),
        autoescape=autoescape,  # noqa: S701 - Markdown has an escape of its own, `finalize`
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {name: getattr(formats, name) for name in FILTERS}
    found.globals["as_cells"] = formats.as_cells
    found.tests["figure"] = formats.is_figure
    return found


TEMPLATES = environment()


def render(template: str, **values: object) -> str:
    return TEMPLATES.get_template(template).render(values)


def compose(page: Path, template: str, names: Iterable[str] = PAGES, **values: object) -> str:
    """Return a page's text, with links to the overview and to those of the pages that exist.

    A stage of the pipeline names the pages that surely do: what it writes must be the same each
    time. `page` is where the page will be.
    """
    given = {"project": current_project().name, "facts": [], "links": links(page, names)}
    return render(template, **(given | values))


def links(page: Path, names: Iterable[str] = PAGES, root: Path = Path()) -> dict[str, str]:
    found = {"Overview": OVERVIEW}
    found |= {name: PAGES[name] for name in names if (root / PAGES[name]).is_file()}
    return {name: relative(path, page) for name, path in found.items() if path != page}


def relative(path: Path, page: Path) -> str:
    """Return the link from a page to another; both are paths in the project."""
    return Path(os.path.relpath(path, page.parent)).as_posix()


def write_overview(root: Path = Path(), project: str = "") -> None:
    """Write reports/index.html, which links to all pages that there are."""
    pages = []
    for name, path in PAGES.items():
        if (root / path).is_file():
            made = datetime.fromtimestamp((root / path).stat().st_mtime, UTC)
            pages.append((name, relative(path, OVERVIEW), ABOUT[name], made))
    project = project or current_project().name
    text = render("overview.html", project=project, facts=[], links={}, pages=pages)
    files.write_text(root / OVERVIEW, text)
