"""Ids of predictions: 28 hex digits name the request, the last four its row.

The first 12 are a time, in milliseconds since 1970: the ids of a day are a range, and PostgreSQL's
tables are partitioned by it. They stay 32 characters, as version 1.0 made them.
"""

import secrets
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256

REPEAT_DAYS = 7  # before today, in which a repeated request is looked for
DAY = timedelta(days=1)


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def first_id(day: date) -> str:
    """Return what all ids of a day, and of those after it, begin with or come after."""
    return time_digits(midnight(day))


def time_digits(moment: datetime) -> str:
    return f"{int(moment.timestamp() * 1000):012x}"


def new_prefix(now: datetime) -> str:
    """Return 28 hex digits that grow with time; who could foresee them could forge outcomes."""
    return time_digits(now) + secrets.token_hex(8)


def derived_prefixes(origin: bytes, now: datetime) -> list[str]:
    """Return what a request gets today, always the same, and what it got on the days before."""
    digits = sha256(origin).hexdigest()[:16]
    days = [now.astimezone(UTC).date() - n * DAY for n in range(REPEAT_DAYS + 1)]
    return [first_id(day) + digits for day in days]
