"""Incidents: what goes wrong upstream of the example's model, and the alarm that must see it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlops_loop.example.flights import WEATHER


class Incident(NamedTuple):
    """`spoil` does to a table what happened; a rule of the monitor that begins with `rule` must see it."""

    name: str
    what: str
    spoil: Callable[[pd.DataFrame], pd.DataFrame]
    rule: str


def no_temperature(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(temperature=np.nan)


def kilometres(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(distance=table["distance"] * 1.609344)


def new_carrier(table: pd.DataFrame) -> pd.DataFrame:
    every = np.arange(len(table)) % 20 == 0
    return table.assign(carrier=table["carrier"].mask(every, "ZZ"))


def broken_join(table: pd.DataFrame) -> pd.DataFrame:
    lost = table["origin"] == "LGA"
    return table.assign(**{name: table[name].mask(lost) for name in WEATHER.values()})


def utc(table: pd.DataFrame) -> pd.DataFrame:
    minute = (table["departure_minute"] + 4 * 60) % (24 * 60)  # in summer
    return table.assign(departure_minute=minute, departure_hour=minute // 60)


INCIDENTS = (
    Incident(
        "null",
        "the thermometer falls silent: no temperature",
        no_temperature,
        "quality: nulls in temp",
    ),
    Incident(
        "carrier",
        "a new carrier flies every twentieth flight",
        new_carrier,
        "quality: refused requests",
    ),
    Incident(
        "join",
        "LaGuardia's weather no longer finds its flights",
        broken_join,
        "quality: nulls in pressure",
    ),
    Incident("unit", "distances come in kilometres", kilometres, "drift: distance"),
    Incident("clock", "departures come in UTC", utc, "drift: departure_minute"),
)
