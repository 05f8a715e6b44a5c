"""A hook of MkDocs: the site also shows the pages that each project gets, named for the example."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PROJECT_DOCS = Path(__file__).parent.parent / "{{cookiecutter.project_slug}}" / "docs"
ANSWERS = {
    "{{ cookiecutter.project_slug }}": "flight-delays",
    "{{ cookiecutter.__package_name }}": "flight_delays",
}

DOCS = Path(__file__).parent


def on_config(config: Any) -> Any:
    """Leave out of the navigation what has not been written yet."""
    config.nav = [entry for entry in map(written, config.nav) if entry]
    return config


def written(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of the navigation with the pages that exist."""
    ((title, inside),) = entry.items()
    if isinstance(inside, list):
        pages = [page for page in map(written, inside) if page]
        return {title: pages} if pages else {}
    in_project = inside.startswith("project/")
    path = PROJECT_DOCS / Path(inside).name if in_project else DOCS / inside
    return entry if path.exists() else {}


def on_files(files: Files, config: Any) -> Files:
    """Add the project's pages below project/."""
    for page in sorted(PROJECT_DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for mark, answer in ANSWERS.items():
            text = text.replace(mark, answer)
        files.append(File.generated(config, f"project/{page.name}", content=text))
    return files
