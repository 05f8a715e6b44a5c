"""Command line: every verb. Heavy libraries are imported by the verb that needs them."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from . import NAME
from .errors import Failure, run
from .tasks import Task

HELP = "Train, promote, serve and watch the model. The pipeline itself is `uv run dvc repro`."
CODES = "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 the check ran and says no."
EXAMPLE = f"Example: uv run {NAME}"
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
LOOPBACK = ("127.0.0.1", "::1", "localhost")
app = typer.Typer(name=NAME, help=HELP, epilog=CODES, no_args_is_help=True, add_completion=False)
schema_app = typer.Typer(
    help="The data contract, schema.yaml: make one, or compare two.", no_args_is_help=True
)
app.add_typer(schema_app, name="schema")
log_app = typer.Typer(help="The prediction log.", no_args_is_help=True)
app.add_typer(log_app, name="log")


@app.command(epilog=f"{EXAMPLE} demo --fast")
def demo(fast: Annotated[bool, typer.Option("--fast", help="Fewer months, for CI.")] = False) -> None:
    """Run the whole way: pipeline, promotion, server, traffic, monitor; of the example, a year of it."""
    from .demo import demo

    demo(fast)


@app.command(epilog=f"{EXAMPLE} promote")
def promote() -> None:
    """Register the bundle as a version, and make it champion if it passes every gate."""
    from .promote import promote

    promotion = promote()
    word = "the new champion" if promotion["new"] else "champion already; it was not judged again"
    print(f"version {promotion['version']} is {word}")


@app.command(epilog=f"{EXAMPLE} rollback --reason 'late flights are missed'")
def rollback(
    version: Annotated[str | None, typer.Argument(help="A former champion. [default: the last one]")] = None,
    reason: Annotated[str, typer.Option(help="For the audit log.")] = "",
) -> None:
    """Make a former champion champion again; a running server follows."""
    from .champion import roll_back

    print(f"version {roll_back(version, reason)['version']} is champion again")


@app.command(epilog=f"{EXAMPLE} audit --last 100")
def audit(
    last: Annotated[int, typer.Option(min=0, help="How many lines to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print every line as it is kept.")] = False,
) -> None:
    """Show who was promoted, refused or rolled back, and why; exit code 3 if a line was tampered with."""
    from .champion import look_back

    look_back(last, as_json)


@app.command(epilog=f"{EXAMPLE} trace 3f0c9b7a5d4e4f1c8a2b6d7e8f901234")
def trace(prediction_id: Annotated[str, typer.Argument(help="As the API answered it.")]) -> None:
    """Say where a prediction comes from: version, run, commit, data, parameters, who promoted it."""
    from .trace import trace

    trace(prediction_id)


@app.command(epilog=f"{EXAMPLE} reproduce 3")
def reproduce(version: Annotated[str, typer.Argument(help="A registered version.")]) -> None:
    """Build a version again from its commit and data; exit code 3 if anything differs."""
    from .reproduce import reproduce

    reproduce(version)


@app.command(epilog=f"{EXAMPLE} card > MODEL_CARD.md")
def card() -> None:
    """Print the champion's model card as Markdown; its page is card.html beside it, and at / of the API."""
    from .bundle import open_bundle
    from .settings import load_settings

    bundle = open_bundle(Path(load_settings().bundle))
    print((bundle.folder / "card.md").read_text(encoding="utf-8"), end="")


@app.command(epilog=f"{EXAMPLE} doctor")
def doctor() -> None:
    """Check tools, servers, stores, secrets and disk; exit code 3 if anything needed is missing."""
    from .doctor import doctor

    doctor()


@app.command(epilog=f"{EXAMPLE} serve --port 8080")
def serve(
    host: Annotated[str, typer.Option(help="Any other address needs API_KEYS.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the champion's bundle over HTTP; the API's documentation is at /docs."""
    from .settings import load_settings

    if host not in LOOPBACK and not load_settings().asks_for_keys:
        raise Failure(f"API_KEYS must be set to serve on {host}: anyone there could call the model")
    from .serve.run import serve

    serve(host, port, workers)


@app.command(epilog=f"{EXAMPLE} score new.csv predictions.parquet")
def score(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="CSV, Parquet or JSON lines; or their folder")
    ],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="A .parquet or .csv file; or a folder")],
) -> None:
    """Predict every row of a file or folder, or of a URL; goes on where it was stopped.

    Rows that break the contract go to a file or folder beside OUTPUT, each with the reason.
    """
    from .params import shown
    from .score import score

    (scored, rejected), rejects = score(source, target)
    print(f"{scored:,} rows scored: {shown(target)}\n{rejected:,} rows rejected: {shown(rejects)}")


@app.command(epilog=f"{EXAMPLE} outcomes late.csv")
def outcomes(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV, Parquet or JSON lines; or a URL")],
) -> None:
    """Record what came true, from the columns prediction_id and value; again if it was corrected."""
    from .outcomes import beside, outcomes

    done = outcomes(file)
    print(f"{done.recorded:,} recorded, {done.repeated:,} there already, {done.corrected:,} corrected")
    if done.unknown:
        print(f"{done.unknown:,} of predictions that the log has not: {beside(file, 'unknown')}")
    if done.rejected:
        print(f"{done.rejected:,} that break the contract: {beside(file, 'rejects')}")


@log_app.command("prune", epilog=f"{EXAMPLE} log prune --older-than 90")
def log_prune(
    older_than: Annotated[int, typer.Option(min=0, max=36500, metavar="DAYS", help="Age in days.")],
) -> None:
    """Delete old predictions and their outcomes; the audit log stays."""
    from datetime import UTC, datetime, timedelta

    from sqlalchemy.exc import SQLAlchemyError

    from .serve import log
    from .settings import load_settings

    engine = log.open_log(load_settings().prediction_log_url)
    try:
        pruned = log.prune(engine, datetime.now(UTC) - timedelta(days=older_than))
    except SQLAlchemyError as error:
        raise log.unusable(error) from None
    print(f"{pruned:,} predictions deleted that were older than {older_than} days")


@app.command(epilog=f"{EXAMPLE} monitor --days 1")
def monitor(
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="[default: monitor.days]")] = None,
    until: Annotated[datetime | None, typer.Option(formats=DATES, help="In UTC. [default: now]")] = None,
) -> None:
    """Look at a window of the prediction log; exit code 3 with a verdict: drift, quality or decay."""
    from .monitor import show

    show(days, until)


@app.command(epilog=f"{EXAMPLE} retrain --until 2013-07-01")
def retrain(
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="Learn from what is earlier. [default: now]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the evidence says.")] = False,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
) -> None:
    """Decide from evidence whether to retrain; if so run the pipeline, ask the gates, promote or refuse."""
    from .retrain import retrain

    retrain(until, force, reason)


@app.command(epilog=f"{EXAMPLE} compare --days 7")
def compare(
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="[default: monitor.days]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a document instead of tables.")] = False,
) -> None:
    """Say from outcomes whether a canary or shadow is better than the champion, or that nobody knows yet."""
    import json

    from .compare import compare, show

    found = compare(days)
    print(json.dumps(found, indent=2, ensure_ascii=False)) if as_json else show(found)


@app.command(epilog=f"{EXAMPLE} tune --trials 50 --timeout 3600")
def tune(
    trials: Annotated[int, typer.Option(min=1, help="How many more parameters to try.")] = 20,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds after which no trial begins.")] = None,
) -> None:
    """Search for better parameters on the training window alone, and write the best to params.yaml."""
    from .tune import tune

    tune(trials, timeout)


@schema_app.command("infer", epilog=f"{EXAMPLE} schema infer table.csv --target price --force")
def schema_infer(
    target: Annotated[str, typer.Option(help="The column to predict.")],
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="Any table, or its URL.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="The column to split by; else at random.")] = None,
    task: Annotated[Task | None, typer.Option(help="Instead of what the target suggests.")] = None,
    sql: Annotated[str | None, typer.Option(help="A query instead of a file; needs --url-env.")] = None,
    url_env: Annotated[str | None, typer.Option(help="Environment variable with the database's URL.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the schema.yaml that is there.")] = False,
) -> None:
    """Look at a table; write schema.yaml, and what else the project needs to run on that table."""
    if (file is None) == (sql is None) or (sql is None) != (url_env is None):
        raise typer.BadParameter("give either FILE, or --sql and --url-env")
    from .infer import infer
    from .params import Sql

    source = Sql(sql=sql, url_env=url_env) if sql and url_env else file or ""
    infer(source, target, timestamp, task, force)


@schema_app.command("check", epilog=f"{EXAMPLE} schema check HEAD")
def schema_check(
    old: Annotated[str, typer.Argument(help="A file, a git revision, or REVISION:PATH.")],
    new: Annotated[str, typer.Argument(help="The same.")] = "schema.yaml",
) -> None:
    """Say what the change of the contract breaks; exit code 3 if it breaks the API's clients."""
    from .evolve import check

    check(old, new)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
