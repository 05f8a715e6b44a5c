"""Data quality of a window: missing values, unknown categories, rejected requests, volume.

Each check returns what it measured and the alarms that follow from it.
"""

import numpy as np
import pandas as pd

from mlops_loop.base.params import Monitor
from mlops_loop.contract.schema import Schema
from mlops_loop.monitoring.monitoring_window import MonitoringWindow
from mlops_loop.monitoring.rules import Rule
from mlops_loop.prediction_log.window_summary import Alarm, ColumnShare, RejectedShare, Volume

MIN_REJECTED = 10  # requests; fewer are no alarm, however few there are in all
MIN_EARLIER_WINDOWS = 3  # with enough rows, to tell how many are usual


def check_nulls(
    current: pd.DataFrame, reference: pd.DataFrame, max_rise: pd.Series
) -> tuple[dict[str, ColumnShare], list[Alarm]]:
    """Return the shares of missing values, and an alarm where one rose by more than its limit."""
    shares: dict[str, ColumnShare] = {}
    alarms = []
    for name in current:
        share = float(current[name].isna().mean())
        before = float(reference[name].isna().mean())
        limit = before + float(max_rise[name])
        shares[name] = ColumnShare(share=share, reference=before, limit=limit)
        if share > limit:
            text = f"{share:.1%} of {name} are missing, in the reference {before:.1%}"
            alarms.append(Rule("quality.nulls", name).alarm(share, limit, text))
    return shares, alarms


def check_unseen(
    current: pd.DataFrame, reference: pd.DataFrame, schema: Schema, max_rise: float
) -> tuple[dict[str, ColumnShare], list[Alarm]]:
    """Return the shares of categories that the contract does not list, and alarms."""
    shares: dict[str, ColumnShare] = {}
    alarms = []
    for name in current:
        if not (categories := schema.features[name].categories):
            continue
        share = unlisted_share(current[name], categories)
        before = unlisted_share(reference[name], categories)
        limit = before + max_rise
        shares[name] = ColumnShare(share=share, reference=before, limit=limit)
        if share > limit:
            text = f"{share:.1%} of {name} are categories that the contract does not list"
            alarms.append(Rule("quality.unseen", name).alarm(share, limit, text))
    return shares, alarms


def unlisted_share(values: pd.Series, categories: tuple[str, ...]) -> float:
    present = values.dropna()
    return int((~present.isin(categories)).sum()) / max(1, len(values))


def outside_range(
    current: pd.DataFrame, reference: pd.DataFrame, schema: Schema
) -> dict[str, float | None]:
    """Return the share of numbers beyond the reference's range. Seasons do this: no alarm."""
    shares: dict[str, float | None] = {}
    for name in [name for name in current if name in schema.numeric]:
        low = reference[name].min()
        high = reference[name].max()
        shares[name] = float(((current[name] < low) | (current[name] > high)).mean())
    return shares


def check_rejected(
    window: MonitoringWindow, max_share: float
) -> tuple[RejectedShare, list[Alarm], str]:
    """Return how many requests were rejected and where, and an alarm if they are too many.

    The text says why there is none although the share is above the limit.
    """
    count = sum(window.rejected.values())
    total = count + window.requests
    share = count / max(1, total)
    places: dict[str, int] = {}
    for (kind, place), number in sorted(window.rejected.items(), key=lambda item: -item[1]):
        named = place or kind
        places[named] = places.get(named, 0) + number
    found = RejectedShare(requests=count, share=share, limit=max_share, places=places)
    if share <= max_share:
        return found, [], ""
    refused = f"refused {share:.0%} of {total:,} requests"
    if count < MIN_REJECTED:
        return found, [], f"{refused}: too few for an alarm"
    most = ", ".join(f"{place} {number:,}" for place, number in list(places.items())[:3])
    alarm = Rule("quality.refused").alarm(share, max_share, f"{refused}: {most}")
    return found, [alarm], ""


def check_volume(window: MonitoringWindow, params: Monitor) -> tuple[Volume, list[Alarm]]:
    """Return the rows, and how many are usual; and an alarm if they are far from it."""
    earlier = [rows for rows in window.earlier if rows >= params.min_rows]
    usual = float(np.median(earlier)) if len(earlier) >= MIN_EARLIER_WINDOWS else None
    factors = params.quality.volume
    found = Volume(rows=window.traffic, usual=usual, limits=factors)
    if usual is None or factors[0] * usual <= window.traffic <= factors[1] * usual:
        return found, []
    text = f"{window.traffic:,} rows, usual are {usual:,.0f}"
    limit = factors[0 if window.traffic < usual else 1] * usual
    return found, [Rule("quality.volume").alarm(window.traffic, limit, text)]
