"""The command line, and its groups of verbs."""

import typer

HELP = "Train, promote, serve and monitor the model. The pipeline itself is `uv run dvc repro`."
CODES = "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 the check ran and says no."

# What --help lists together, in this order.
PANELS = {
    "Start": ("demo", "doctor", "schema"),
    "Pipeline stages, which `dvc repro` runs": (
        *("ingest", "validate", "split", "train", "evaluate", "export"),
    ),
    "Search and release": ("tune", "promote", "rollback", "card", "audit", "trace", "reproduce"),
    "Serve": ("serve", "score", "outcomes", "log"),
    "Monitor": ("monitor", "compare", "retrain"),
}

APP = typer.Typer(
    help=HELP,
    epilog=CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
SCHEMA = typer.Typer(help="The data contract, schema.yaml: make or compare.", no_args_is_help=True)
LOG = typer.Typer(help="The prediction log.", no_args_is_help=True)
APP.add_typer(SCHEMA, name="schema")
APP.add_typer(LOG, name="log")
