"""A hook of MkDocs: the site also shows the pages that each project gets, named for the example."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from mkdocs.structure.files import File, Files

TEMPLATE = Path(__file__).parent.parent
PROJECT_DOCS = TEMPLATE / "{{cookiecutter.project_slug}}" / "docs"
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
ANSWERS = {key: value[0] if isinstance(value, list) else value for key, value in QUESTIONS.items()}
ANSWERS |= {"project_slug": "flight-delays", "__package_name": "flight_delays"}
JINJA = Environment(undefined=StrictUndefined, keep_trailing_newline=True)


def on_files(files: Files, config: Any) -> Files:
    """Add the project's pages below project/."""
    for page in sorted(PROJECT_DOCS.glob("*.md")):
        text = JINJA.from_string(page.read_text("utf-8")).render(cookiecutter=ANSWERS)
        files.append(File.generated(config, f"project/{page.name}", content=text))
    return files
