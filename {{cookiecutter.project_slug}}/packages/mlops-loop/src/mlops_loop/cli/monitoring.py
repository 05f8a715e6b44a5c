"""The verbs of `monitoring`: monitor, compare, retrain."""

from datetime import datetime
from typing import Annotated

import typer

from mlops_loop.cli.groups import APP

DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


@APP.command(epilog="{example} monitor --days 1")
def monitor(
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="[default: monitor.days]")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="In UTC. [default: now]")
    ] = None,
    evidently: Annotated[
        bool, typer.Option("--evidently", help="Write Evidently's own report, too: seconds more.")
    ] = False,
) -> None:
    """Check a window of the prediction log; exit code 3 with a verdict: drift, quality or decay.

    Also where no rule had enough to look at: not judged is not fine.
    """
    from mlops_loop.monitoring.monitor import main

    main(days, until, evidently)


@APP.command(epilog="{example} retrain --until 2026-07-01")
def retrain(
    until: Annotated[
        datetime | None,
        typer.Option(formats=DATES, help="Learn from what is earlier. [default: now]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the evidence says.")] = False,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
) -> None:
    """Decide from evidence whether to retrain; if so run the pipeline and the gates."""
    from mlops_loop.monitoring.retraining.retrain import retrain

    retrain(until, force, reason)


@APP.command(epilog="{example} compare --days 7")
def compare(
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="[default: monitor.days]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a document instead of tables.")
    ] = False,
) -> None:
    """Compare a canary or shadow with the champion, from ground truth; or say that it is open."""
    import json

    from mlops_loop.monitoring.compare import compare, print_comparison

    found = compare(days)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        print_comparison(found)
