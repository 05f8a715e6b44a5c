"""A hook of MkDocs: the site also shows the pages that each project gets, named for the example."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PROJECT_DOCS = Path(__file__).parent.parent / "{{cookiecutter.project_slug}}" / "docs"
ANSWERS = {
    "{{ cookiecutter.project_slug }}": "flight-delays",
    "{{ cookiecutter.__package_name }}": "flight_delays",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the project's pages below project/."""
    for page in sorted(PROJECT_DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for mark, answer in ANSWERS.items():
            text = text.replace(mark, answer)
        files.append(File.generated(config, f"project/{page.name}", content=text))
    return files
