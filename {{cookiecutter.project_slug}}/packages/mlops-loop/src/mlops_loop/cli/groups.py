"""The command line's groups of verbs, and what verbs have in common."""

from typing import Annotated

import typer

CODES = "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 the check ran and says no."
NAME = "PROJECT"  # stands for the project's name in the examples
EXAMPLE = f"Example: uv run {NAME}"

# What --help lists together.
START = "Start"
STAGES = "Pipeline stages, which `dvc repro` runs"
RELEASE = "Search and release"
SERVE = "Serve"
MONITOR = "Monitor"

APP = typer.Typer(
    help="Train, promote, serve and monitor the model. The pipeline itself is `uv run dvc repro`.",
    epilog=CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
SCHEMA = typer.Typer(help="The data contract, schema.yaml: make or compare.", no_args_is_help=True)
LOG = typer.Typer(help="The prediction log.", no_args_is_help=True)
APP.add_typer(SCHEMA, name="schema", rich_help_panel=START)
APP.add_typer(LOG, name="log", rich_help_panel=SERVE)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, with every detail.")]
