"""Log: a window and a prune of a large PostgreSQL log, partitioned, against one table for all.

Run in a rendered project's environment, with PostgreSQL's programs on PATH:

    python log.py [--rows 1000000] [--days 30] [--rounds 3] [--window 7]

A server of its own, in a temporary folder, gets two databases with the same rows, half of them with
ground truth: one has the tables of this version, the other those of version 1.0. In turn each is
asked for what `monitor` reads of the newest window, and then loses its oldest day. 10,000,000 rows
take 16 GB while it runs.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from mlops_loop.monitoring.monitoring_window import between, read_rows, scan
from mlops_loop.prediction_log.connection import connect
from mlops_loop.prediction_log.ids import DAY, midnight
from mlops_loop.prediction_log.partitions import create_day
from mlops_loop.prediction_log.retention import prune
from mlops_loop.prediction_log.tables import METADATA, create_missing

PORT = 54329
WHAT = ("count a window", "read its sample", "prune a day")
SAMPLE = 10_000  # rows, as in params.yaml
REQUEST = 50  # rows
FEATURES = (
    '{"carrier": "UA", "origin": "EWR", "dest": "ORD", "distance": 719, "hour": 7, "month": 6, '
    '"wind_speed": 11.5, "temp": 71.2, "humid": 48.4, "precip": 0.0, "pressure": 1016.1, '
    '"visib": 10.0, "sched_dep": "2013-06-05T07:30:00", "seats": 149, "year_built": 1999}'
)
OUTPUT = '{"label": "on time", "probabilities": {"late": 0.21875, "on time": 0.78125}}'
# A day's rows, even through it. The ids are as the server makes them.
ROWS = """
SELECT lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
       || substr(md5(request::text), 1, 16) || lpad(to_hex(row), 4, '0') AS id, moment
FROM (SELECT n / {request} AS request, mod(n, {request}) AS row,
             timestamptz '{day}' + n / {request} * interval '{step} seconds' AS moment
      FROM generate_series(0, {count} - 1) AS n) AS made
"""
PREDICTIONS = """
INSERT INTO predictions
SELECT id, moment, 'key', '3', 'champion', NULL, '{f}', '{o}', 1.5 FROM ({rows}) AS r
"""
OUTCOMES = """
INSERT INTO outcomes SELECT id, '"late"', moment FROM ({rows}) AS r WHERE right(id, 1) < '8'
"""


@contextmanager
def server() -> Iterator[str]:
    """Give the URL of a PostgreSQL of its own, with its defaults."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as name:
        options = {}
        if os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(name, "postgres")
            options = {"user": "postgres", "group": "postgres", "extra_groups": []}
        data = Path(name) / "data"
        make = ["initdb", "-U", "bench", "-A", "trust", "--no-sync", "-D", str(data)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=name, **options)
        start = ["pg_ctl", "-w", "-D", str(data), "-l", f"{name}/log", "-o"]
        start.append(f"-p {PORT} -k '' -c listen_addresses=127.0.0.1 -c max_wal_size=2GB")
        subprocess.run([*start, "start"], check=True, stdout=subprocess.DEVNULL, **options)
        try:
            yield f"postgresql+psycopg://bench@127.0.0.1:{PORT}"
        finally:
            stop = ["pg_ctl", "-D", str(data), "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd=name, **options)


def fill(engine: sa.Engine, days: list[datetime], count: int) -> float:
    """Insert so many rows of each day, and half as many outcomes; return the seconds."""
    started = time.perf_counter()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        for day in days:
            step = 86400 / (count / REQUEST + 1)
            rows = ROWS.format(request=REQUEST, day=day, step=step, count=count)
            connection.exec_driver_sql(PREDICTIONS.format(f=FEATURES, o=OUTPUT, rows=rows))
            connection.exec_driver_sql(OUTCOMES.format(rows=rows))
        connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum does
        connection.exec_driver_sql("CHECKPOINT")
    return time.perf_counter() - started


def create_one_table(engine: sa.Engine) -> None:
    """Create the tables of version 1.0."""
    old = sa.MetaData()
    for table in METADATA.tables.values():
        copy = table.to_metadata(old)
        copy.dialect_options["postgresql"]["partition_by"] = None
        for index in copy.indexes:
            index.dialect_options["postgresql"]["include"] = None
    old.create_all(engine)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def count(engine: sa.Engine, start: datetime, end: datetime) -> list[str]:
    """Do what `monitor` asks of its window: counts by version, and the ids of its samples."""
    with engine.connect() as connection:
        _, some, labelled = scan(connection, between(start, end), "3", SAMPLE)
    return sorted({*some, *labelled})


def read(engine: sa.Engine, ids: list[str]) -> None:
    """Read the sampled rows, as `monitor` does next."""
    with engine.connect() as connection:
        read_rows(connection, ids)


def fill_database(url: str, name: str, days: list[datetime], rows: int) -> sa.Engine:
    with connect(f"{url}/postgres").connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine = connect(f"{url}/{name}")
    if name == "partitioned":
        create_missing(engine)
        with engine.begin() as connection:
            for day in days:
                create_day(connection, day.date())
    else:
        create_one_table(engine)
    took = fill(engine, days, rows // len(days))
    with engine.connect() as connection:
        size = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    gigabytes = size / 2**30
    print(f"{name:12} {rows:,} rows, {gigabytes:.1f} GiB, filled in {took:.0f} s", flush=True)
    return engine


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("rows", 1_000_000), ("days", 30), ("rounds", 3), ("window", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    today = datetime.now(UTC).date()
    days = [midnight(today - n * DAY) for n in range(options.days, 0, -1)]
    found: dict[str, dict[str, list[float]]] = {what: {} for what in WHAT}
    with server() as url:
        names = ("one table", "partitioned")
        engines = {
            name: fill_database(url, name.replace(" ", "_"), days, options.rows) for name in names
        }
        end = days[-1] + DAY
        start = end - timedelta(days=options.window)
        ids = count(engines["partitioned"], start, end)
        for day in days[: options.rounds]:
            for what in WHAT:
                for name, engine in engines.items():
                    calls: dict[str, Callable[[], object]] = {
                        "count a window": lambda e=engine: count(e, start, end),
                        "read its sample": lambda e=engine: read(e, ids),
                        "prune a day": lambda e=engine, d=day: prune(e, d + DAY),
                    }
                    found[what].setdefault(name, []).append(seconds(calls[what]))
        for engine in engines.values():
            engine.dispose()
    print(f"load average {os.getloadavg()[0]:.1f}; seconds: minimum, median, maximum")
    for what, of in found.items():
        for name, times in of.items():
            numbers = (min(times), statistics.median(times), max(times))
            print(f"{what:16} {name:12} " + " ".join(f"{number:8.3f}" for number in numbers))
        old, new = (statistics.median(times) for times in of.values())
        print(f"{what}: one table takes {old / new:.1f} times as long")


if __name__ == "__main__":
    main()
