"""Derived features. Change `derive()` to compute others, in training and in the server alike."""

from collections.abc import Mapping

import numpy as np

WEEKDAYS = np.array(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], dtype=object)


def derive(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns that schema.yaml declares as `derived`, each row's from that row alone.

    `columns` has the inputs of schema.yaml: numbers as float32 with NaN, categories as str or None,
    booleans as bool, times as datetime64[s] without a zone.
    """
    scheduled = columns["scheduled_departure"]
    day = scheduled.astype("datetime64[D]")
    minute = (scheduled - day).astype(int) // 60
    return {
        "weekday": WEEKDAYS[(day.astype(int) + 3) % 7],  # 1 January 1970 was a Thursday
        "departure_hour": minute // 60,
        "departure_minute": minute,
    }
