"""The verbs of `contract`: compare two contracts."""

from typing import Annotated

import typer

from mlops_loop.cli.groups import SCHEMA


@SCHEMA.command("check", epilog="{example} schema check HEAD")
def schema_check(
    old: Annotated[str, typer.Argument(help="A file, a git revision, or REVISION:PATH.")],
    new: Annotated[str, typer.Argument(help="As OLD.")] = "schema.yaml",
) -> None:
    """List what a change of the contract breaks; exit code 3 if it breaks the API's clients."""
    from mlops_loop.contract.compatibility import check

    check(old, new)
