"""The verbs of `batch`: whole files."""

from typing import Annotated

import typer

from mlops_loop.cli.groups import APP


@APP.command(epilog="{example} score new.csv predictions.parquet")
def score(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="CSV, Parquet or JSON lines; or their folder")
    ],
    target: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="A .parquet or .csv file; or a folder")
    ],
) -> None:
    """Score every row of a file, folder or URL; a stopped run resumes.

    Rows that break the contract are written beside OUTPUT, each with the reason.
    """
    from mlops_loop.base.params.ingest import format_source
    from mlops_loop.batch.score import score

    done = score(source, target)
    print(f"{done.scored:,} rows scored: {format_source(target)}")
    print(f"{done.rejected:,} rows rejected: {format_source(done.rejects)}")


@APP.command(epilog="{example} outcomes truth.csv")
def outcomes(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, Parquet or JSON lines; or a URL")
    ],
) -> None:
    """Record ground truth from the columns prediction_id and value; exit code 3 if none fits."""
    from mlops_loop.base.errors import Refusal
    from mlops_loop.batch.ground_truth import record_file, sibling

    done = record_file(file)
    print(
        f"{done.recorded:,} recorded, {done.repeated:,} there already, {done.corrected:,} corrected"
    )
    if done.unknown:
        where = sibling(file, "unknown")
        print(f"{done.unknown:,} for predictions that the log does not hold: {where}")
    if done.rejected:
        print(f"{done.rejected:,} break the contract: {sibling(file, 'rejects')}")
    refused = done.unknown + done.rejected
    if refused and not done.recorded + done.repeated + done.corrected:
        raise Refusal(f"nothing was recorded: none of {refused:,} rows could be")
