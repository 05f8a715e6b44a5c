"""Time limits for PostgreSQL: by the server, by the network, and by the driver.

`statement_timeout` ends a slow statement, keep-alives end a dead connection. Neither helps with a
server that is frozen on a living machine: its kernel goes on acknowledging packets. Hence the
driver's own limit, which wraps the generator that psycopg waits on (psycopg has no public option).
"""

import time
from typing import TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

CONNECT_SECONDS = 5  # until a connection, or waiting for a lock, fails
Option = str | int | None  # of a connection
NETWORK: dict[str, Option] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": CONNECT_SECONDS,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 2000 * CONNECT_SECONDS,
}
Result = TypeVar("Result")


def set_timeouts(engine: sa.Engine, statement_seconds: float) -> None:
    """Let PostgreSQL cancel a statement after `statement_seconds`, or else the driver."""

    class Connection(psycopg.Connection[TupleRow]):
        # What follows `gen` differs between versions of psycopg.
        def wait(  # type: ignore[override]
            self, gen: PQGen[Result], *arguments: float, **options: float
        ) -> Result:
            seconds = statement_seconds + CONNECT_SECONDS
            return super().wait(limited(gen, self, seconds), *arguments, **options)

    def open_connection(
        _: object, __: object, arguments: list[str], options: dict[str, Option]
    ) -> Connection:
        connection = Connection.connect(*arguments, **(NETWORK | options))  # type: ignore[arg-type]
        set_session(connection, statement_seconds)
        return connection

    sa.event.listen(engine, "do_connect", open_connection)


def set_session(connection: psycopg.Connection[TupleRow], statement_seconds: float) -> None:
    limits = {
        "statement_timeout": statement_seconds,
        "lock_timeout": min(CONNECT_SECONDS, statement_seconds),
    }
    for name, seconds in limits.items():
        connection.execute(f"SET {name} = {round(seconds * 1000)}")
    connection.execute("SET TIME ZONE 'UTC'")  # in which all times are read
    connection.commit()


def limited(
    work: PQGen[Result], connection: psycopg.Connection[TupleRow], seconds: float
) -> PQGen[Result]:
    """Pass psycopg's generator through; close the connection if it takes longer than `seconds`."""
    end = time.monotonic() + seconds
    try:
        wanted = next(work)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                connection.close()
                raise psycopg.OperationalError("the server does not answer")
            wanted = work.send(ready)
    except StopIteration as done:
        result: Result = done.value
        return result
