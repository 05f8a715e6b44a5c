"""The command line's groups of verbs, and how a verb is added to them."""

import os
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import signature
from typing import Annotated, ParamSpec

import typer

CODES = "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 the check ran and says no."
NAME = "PROJECT"  # stands for the project's name in the examples

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
GROUPS = {
    "schema": typer.Typer(help="The data contract, schema.yaml: make or compare."),
    "log": typer.Typer(help="The prediction log."),
}
APP.add_typer(GROUPS["schema"], name="schema", no_args_is_help=True, rich_help_panel=START)
APP.add_typer(GROUPS["log"], name="log", no_args_is_help=True, rich_help_panel=SERVE)

# Each of these asks for lineage; what else the client reads is optional.
LINEAGE = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT__TYPE")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, with every detail.")]
P = ParamSpec("P")


def verb(
    example: str, panel: str | None = None, *, calls: str = "", text: str | None = None
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Add a function as the verb that its example begins with, under a heading of --help.

    With `calls` the function is a signature only: its arguments go to the one at "module:name",
    which is imported when the verb runs.
    """
    first, second, *_ = [*example.split(), ""]
    name, group = (second, GROUPS[first]) if first in GROUPS else (first, APP)
    epilog = f"Example: uv run {NAME} {example}"

    def add(function: Callable[P, None]) -> Callable[P, None]:
        @wraps(function)
        def forward(*args: P.args, **kwargs: P.kwargs) -> None:
            module, _, target = calls.partition(":")
            given = signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            getattr(import_module(f"mlops_loop.{module}"), target)(*given.args)

        @wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> None:
            called = forward if calls else function
            if not any(os.environ.get(variable) for variable in LINEAGE):
                called(*args, **kwargs)
                return
            from mlops_loop.release import lineage

            given = signature(function).bind(*args, **kwargs)
            with lineage.recorded(name, given.arguments):
                called(*args, **kwargs)

        return group.command(name, help=text, epilog=epilog, rich_help_panel=panel)(recorded)

    return add
