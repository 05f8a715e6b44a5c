"""The verbs of `release`: promote, go back, evidence."""

from typing import Annotated

import typer

from mlops_loop.cli.groups import APP


@APP.command(epilog="{example} promote")
def promote(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome and every gate's result as JSON.")
    ] = False,
) -> None:
    """Make the bundle champion if it passes every gate; exit code 3 if one refuses it."""
    from mlops_loop.release.promote import promote
    from mlops_loop.release.promotion import print_gates

    promotion = promote()
    if as_json:
        print(promotion.model_dump_json(indent=2))
    else:
        print_gates(promotion.gates)
    promotion.checked()
    if not as_json:
        print(promotion.text)


@APP.command(epilog="{example} rollback --reason 'too many false alarms'")
def rollback(
    version: Annotated[
        str | None, typer.Argument(help="A former champion. [default: the last one]")
    ] = None,
    reason: Annotated[str, typer.Option(help="For the audit log.")] = "",
) -> None:
    """Make a former champion champion again; a running server reloads it."""
    from mlops_loop.release.champion import roll_back

    print(f"version {roll_back(version, reason)} is champion again")


@APP.command(epilog="{example} audit --last 100")
def audit(
    last: Annotated[int, typer.Option(min=0, help="How many lines to show.")] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every line as it is kept.")
    ] = False,
) -> None:
    """List promotions, refusals and rollbacks with their reasons; exit code 3 if a line was
    tampered with.
    """
    from mlops_loop.release.audit_report import show_audit

    show_audit(last, as_json)


@APP.command(epilog="{example} trace 3f0c9b7a5d4e4f1c8a2b6d7e8f901234")
def trace(prediction_id: Annotated[str, typer.Argument(help="As the API answered it.")]) -> None:
    """Show what a prediction was made by: version, run, commit, data, parameters, promotion."""
    from mlops_loop.release.trace import trace

    trace(prediction_id)


@APP.command(epilog="{example} reproduce 3")
def reproduce(version: Annotated[str, typer.Argument(help="A registered version.")]) -> None:
    """Build a version again from its commit and data; exit code 3 if anything differs."""
    from mlops_loop.release.reproduce import reproduce

    reproduce(version)
