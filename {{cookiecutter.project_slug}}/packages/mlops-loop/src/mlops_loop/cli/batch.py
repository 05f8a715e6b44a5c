"""The verbs of `batch`: whole files."""

from typing import Annotated

import typer

from mlops_loop.cli.groups import APP

MOST = 0.5  # share of the rows that are set aside from which on a verb says no


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

    Rows that break the contract are written beside OUTPUT, each with the reason. Exit code 3 if
    these are the most; if these are all, OUTPUT stays what it was.
    """
    from mlops_loop.base.errors import Refusal
    from mlops_loop.base.params import format_source
    from mlops_loop.batch.score import score

    done = score(source, target)
    where = format_source(target) if done.scored else f"{format_source(target)} is not written"
    print(f"{done.scored:,} rows scored: {where}")
    print(f"{done.rejected:,} rows rejected: {format_source(done.rejects)}")
    if done.rejected > MOST * (done.scored + done.rejected):
        what = f"{done.rejected:,} of {done.scored + done.rejected:,} rows break the contract"
        raise Refusal(f"{what}: {format_source(done.rejects)} says why")


@APP.command(epilog="{example} outcomes truth.csv")
def outcomes(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, Parquet or JSON lines; or a URL")
    ],
) -> None:
    """Record ground truth from the columns prediction_id and value; corrections too.

    Exit code 3 if most break the contract, or none was of a logged prediction.
    """
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
    accepted = done.recorded + done.repeated + done.corrected
    total = accepted + done.unknown + done.rejected
    if not accepted or done.rejected > MOST * total:
        what = "correct the values" if done.rejected > done.unknown else "is it another log's file?"
        raise Refusal(f"{accepted:,} of {total:,} outcomes were accepted: {what}")
