"""The verbs that serve a model and watch it. A verb imports what it needs when it runs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option
from typer.models import OptionInfo

from mlops_loop.base.errors import Failure, Refusal
from mlops_loop.cli.groups import MONITOR, SERVE, Json, verb

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST = 0.5  # share of the rows that are set aside from which on a verb says no
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
Days = Annotated[int | None, Option(min=1, max=3650, help="[default: monitor.days]")]
Age = Annotated[int, Option(min=0, max=36500, metavar="DAYS", help="Age in days.")]
Until = Annotated[datetime | None, Option(formats=DATES, help="The end, in UTC. [default: now]")]


@verb("serve --port 8080", SERVE)
def serve(
    host: Annotated[str, Option(help="Any other address needs API_KEYS.")] = LOOPBACK[0],
    port: Annotated[int, Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the champion's bundle over HTTP; the API's documentation is at /docs."""
    from mlops_loop.base.settings import load_settings

    settings = load_settings()
    if not Path(settings.bundle).exists():
        from mlops_loop.release.audit import why_no_champion

        raise Failure(why_no_champion(settings))
    if host not in LOOPBACK and not settings.asks_for_keys:
        raise Failure(f"API_KEYS must be set to serve on {host}: anyone there could call the model")
    from mlops_loop.serving.server import serve

    serve(host, port, workers)


@verb("smoke http://127.0.0.1:8000", SERVE)
def smoke(
    url: Annotated[
        str, Argument(metavar="URL", help="Of a running API.")
    ] = "http://127.0.0.1:8000",
) -> None:
    """Send a running API one real request; exit code 3 if it is not ready or answers wrong.

    It stays in the prediction log. The key is the first of API_KEYS.
    """
    if not url.startswith(("http://", "https://")):
        raise BadParameter(f"{url!r} is no URL: http://HOST:PORT")
    from mlops_loop.base.settings import load_settings
    from mlops_loop.serving.smoke import smoke

    print(smoke(url, load_settings()))


@verb("score new.csv predictions.parquet", SERVE)
def score(
    source: Annotated[str, Argument(metavar="INPUT", help="CSV, Parquet, JSON lines; a folder")],
    target: Annotated[str, Argument(metavar="OUTPUT", help="A .parquet or .csv file; or a folder")],
    incremental: Annotated[
        bool, Option("--incremental", help="Only what is new in a folder, or changed.")
    ] = False,
) -> None:
    """Score every row of a file, folder or URL; a stopped run leaves OUTPUT as it was.

    Rows that break the contract are written beside OUTPUT, each with the reason. Exit code 3 if
    these are the most; if these are all, OUTPUT stays what it was.
    """
    from mlops_loop.base.params import format_source
    from mlops_loop.batch.score import score

    if incremental:
        from mlops_loop.batch.incremental import score_new

        update = score_new(source, target)
        print(update)
        done = update.outcome
    else:
        done = score(source, target)
    total = done.scored + done.rejected
    rejects = format_source(done.rejects)
    where = format_source(target) if done.scored else f"{format_source(target)} is not written"
    print(f"{done.scored:,} rows scored: {where}")
    print(f"{done.rejected:,} rows rejected: {rejects}")
    if done.rejected > MOST * total:
        what = f"{done.rejected:,} of {total:,} rows break the contract"
        raise Refusal(f"{what}: {rejects} says why")


@verb("outcomes truth.csv", SERVE)
def outcomes(
    file: Annotated[str, Argument(metavar="FILE", help="CSV, Parquet or JSON lines; a URL")],
) -> None:
    """Record ground truth from the columns prediction_id and value; corrections too.

    Exit code 3 if most break the contract, or none was of a logged prediction.
    """
    from mlops_loop.batch.ground_truth import record_file, sibling

    done = record_file(file)
    accepted = done.recorded + done.repeated + done.corrected
    total = accepted + done.unknown + done.rejected
    print(
        f"{done.recorded:,} recorded, {done.repeated:,} there already, {done.corrected:,} corrected"
    )
    if done.unknown:
        where = sibling(file, "unknown")
        print(f"{done.unknown:,} for predictions that the log does not hold: {where}")
    if done.rejected:
        print(f"{done.rejected:,} break the contract: {sibling(file, 'rejects')}")
    if not accepted or done.rejected > MOST * total:
        what = "correct the values" if done.rejected > done.unknown else "is it another log's file?"
        raise Refusal(f"{accepted:,} of {total:,} outcomes were accepted: {what}")


@verb("log prune --older-than 90")
def log_prune(
    older_than: Age,
    export: Annotated[
        str, Option(metavar="FOLDER", help="Export first, and delete whole days only.")
    ] = "",
) -> None:
    """Delete old predictions and their outcomes; the audit log stays."""
    from mlops_loop.prediction_log.connection import usable_log
    from mlops_loop.prediction_log.retention import prune

    before = datetime.now(UTC) - timedelta(days=older_than)
    with usable_log() as engine:
        if export:
            from mlops_loop.batch.archive import export_and_prune

            pruned = sum(done.rows for done in export_and_prune(engine, before, export))
        else:
            pruned = prune(engine, before)
    print(f"{pruned:,} predictions deleted that were older than {older_than} days")


@verb("log export --older-than 30 archive")
def log_export(
    folder: Annotated[str, Argument(metavar="FOLDER", help="Or a URL")], older_than: Age
) -> None:
    """Write each day of old predictions as Parquet: FOLDER/day=2026-11-28/predictions.parquet."""
    from mlops_loop.batch.archive import export
    from mlops_loop.prediction_log.connection import usable_log

    with usable_log() as engine:
        for done in export(engine, datetime.now(UTC) - timedelta(days=older_than), folder):
            said = ", which has more rows and stays" if done.kept else ""
            print(f"{done.rows:,} predictions of {done.start:%Y-%m-%d}: {done.file}{said}")


@verb("log partition")
def log_partition() -> None:
    """Partition the tables of a PostgreSQL by day, those of version 1.0 too; again is no harm."""
    from mlops_loop.prediction_log.connection import usable_log
    from mlops_loop.prediction_log.partitions import partition

    with usable_log() as engine:
        done = partition(engine)
    if done.converted:
        print("the tables are partitioned now; what they held is a partition of its own")
    print(f"{done.days} days got a partition; {done.left:,} predictions are in no day's partition")


def amount(text: str, above: float = 0, most: float = 1e15) -> OptionInfo:
    """Return an option that takes a number, also as 2e9."""
    option: OptionInfo = Option(min=above, max=most, help=text)
    return option


@verb("capacity --rps 5000 --rows-per-day 2e9", SERVE)
def capacity(
    rps: Annotated[float, amount("Requests a second.", most=1e6)] = 0,
    rows_per_day: Annotated[float, amount("That `score` scores.")] = 0,
    rows_per_request: Annotated[int, Option(min=1, max=1000)] = 1,
    utilisation: Annotated[float, amount("Of a core, at most.", above=0.01, most=0.99)] = 0.7,
    p95: Annotated[
        float | None, amount("Milliseconds that 95 % of the answers may take.", above=0.001)
    ] = None,
    retention_days: Annotated[int, Option(min=1, max=36500, help="That the log keeps.")] = 90,
    core_month: Annotated[float, amount("Price of a core for a month.")] = 25,
    gib_month: Annotated[float, amount("Price of a GiB of memory for a month.")] = 3,
    disk_gib_month: Annotated[float, amount("Price of a GiB of disk for a month.")] = 0.1,
    measure: Annotated[
        bool, Option("--measure", help="Of this project's champion, on this machine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a load into cores, memory, replicas, size of the log and monthly cost.

    Unit costs are those of the example, or measured with --measure. What is assumed is printed.
    """
    if not rps and not rows_per_day:
        raise BadParameter("give --rps, --rows-per-day, or both")
    from mlops_loop.onboarding.capacity.main import capacity
    from mlops_loop.onboarding.capacity.plan import Load

    prices = core_month, gib_month, disk_gib_month
    load = Load(rps, rows_per_day, rows_per_request, utilisation, p95, retention_days, *prices)
    capacity(load, measure, as_json)


@verb("monitor --days 1", MONITOR, calls="monitoring.monitor:main")
def monitor(
    days: Days = None,
    until: Until = None,
    evidently: Annotated[bool, Option("--evidently", help="Write its report, too.")] = False,
) -> None:
    """Check a window of the prediction log; exit code 3 with a verdict: drift, quality or decay.

    Also where no rule had enough to look at: not judged is not fine.
    """


@verb("compare --days 7", MONITOR)
def compare(days: Days = None, as_json: Json = False) -> None:
    """Compare a canary or shadow with the champion, from ground truth; or say that it is open."""
    from mlops_loop.monitoring.compare import compare, print_comparison

    found = compare(days)
    if as_json:
        rows = [row.model_dump(mode="json") for row in found]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print_comparison(found)


@verb("retrain --until 2026-07-01", MONITOR, calls="monitoring.retraining.retrain:retrain")
def retrain(
    until: Until = None,
    force: Annotated[bool, Option("--force", help="Whatever the evidence says.")] = False,
    reason: Annotated[str, Option(help="For the record.")] = "",
) -> None:
    """Decide from evidence whether to retrain; if so run the pipeline and the gates."""
