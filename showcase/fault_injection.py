"""Faults upstream of the model, and for each the alarm of the monitor that must see it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from showcase import backfill
from showcase.project import Workspace, beside
from showcase.server import serving
from showcase.story import TIMESTAMP, Expected, FaultResult, first_day, in_month, name_of

ROWS = 3000
BATCH = 20  # rows in a request: one bad row refuses all of them
FOLDER = "faults"

NULLS = "quality.nulls"
KILOMETRES = 1.609344  # in a mile
SUMMER = pd.Timedelta(hours=4)  # from New York's summer time to UTC
WEATHER = (
    *("temperature", "dew_point", "humidity", "precipitation", "wind_direction", "wind_speed"),
    *("wind_gust", "pressure", "visibility"),
)


@dataclass(frozen=True)
class Fault:
    """`inject` changes a table of flights; the monitor must raise the alarm `expected`."""

    what: str
    inject: Callable[[pd.DataFrame], pd.DataFrame]
    expected: Expected


def drop_temperature(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(temperature=np.nan)


def add_carrier(table: pd.DataFrame) -> pd.DataFrame:
    every = np.arange(len(table)) % 20 == 0
    return table.assign(carrier=table["carrier"].mask(every, "ZZ"))


def break_join(table: pd.DataFrame) -> pd.DataFrame:
    lost = table["origin"] == "LGA"
    return table.assign(**{name: table[name].mask(lost) for name in WEATHER})


def convert_to_kilometres(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(distance=table["distance"] * KILOMETRES)


def shift_to_utc(table: pd.DataFrame) -> pd.DataFrame:
    """Shift the departure, and the columns made from it where the table has them."""
    found = table.assign(scheduled_departure=table["scheduled_departure"] + SUMMER)
    if "departure_minute" in table:
        minute = (table["departure_minute"] + 4 * 60) % (24 * 60)
        found = found.assign(departure_minute=minute, departure_hour=minute // 60)
    return found


FAULTS = (
    Fault(
        "the thermometer falls silent: no temperature",
        drop_temperature,
        Expected(NULLS, "temperature"),
    ),
    Fault("a new carrier flies every twentieth flight", add_carrier, Expected("quality.refused")),
    Fault(
        "LaGuardia's weather no longer finds its flights", break_join, Expected(NULLS, "pressure")
    ),
    Fault("distances come in kilometres", convert_to_kilometres, Expected("drift", "distance")),
    Fault("departures come in UTC", shift_to_utc, Expected("drift", "departure_minute")),
)


def inject(
    root: Workspace, flights: pd.DataFrame, month: int, fault: Fault, champion: Path
) -> FaultResult:
    """Let a fault happen to some of a month's flights, on its own server and log; monitor it."""
    workspace = beside(root, root.folder / FOLDER, champion)
    table = in_month(flights, month).sample(ROWS, random_state=0).sort_index()
    with serving(workspace) as client:
        columns = backfill.columns_of_api(client)
        rows = backfill.rows_of_api(fault.inject(table), columns)
        sent = backfill.send(client, rows, BATCH)
        log = backfill.open_log(workspace.log_url)
        backfill.redate(log, sent, table[TIMESTAMP], shadowed=False)
    found = workspace.monitor(first_day(month), first_day(month + 1))
    return FaultResult(
        what=fault.what,
        expected=fault.expected,
        month=name_of(month),
        verdicts=tuple(found.verdicts),
        alarm=fault.expected.among(found.alarms),
        page=f"{FOLDER}/{found.report}",
    )
