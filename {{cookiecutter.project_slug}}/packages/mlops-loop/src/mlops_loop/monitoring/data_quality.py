"""Data quality of a window: missing values, unknown categories, rejected requests, volume.

Each check returns what it measured, and adds the alarms that follow from it.
"""

import numpy as np
import pandas as pd

from mlops_loop.base.params.monitor import Monitor
from mlops_loop.contract.schema import Schema
from mlops_loop.monitoring.monitoring_window import MonitoringWindow
from mlops_loop.monitoring.rules import Findings
from mlops_loop.prediction_log.window_summary import ColumnShare, DataQuality, RejectedShare, Volume

MIN_REJECTED = 10  # requests; fewer are no alarm, however few there are in all
MIN_EARLIER_WINDOWS = 3  # with enough rows, to tell how many are usual


def check_columns(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    schema: Schema,
    max_nulls: pd.Series,
    max_unseen: float,
    findings: Findings,
) -> DataQuality:
    """Return the shares of missing values and unknown categories, and of numbers out of range."""
    shares: dict[str, dict[str, ColumnShare]] = {"nulls": {}, "unseen": {}}

    def check(
        rule: str, name: str, now: pd.Series, before: pd.Series, max_rise: float, text: str
    ) -> None:
        share = float(now.mean())
        usual = float(before.mean())
        limit = usual + max_rise
        shares[rule][name] = ColumnShare(share=share, reference=usual, limit=limit)
        if share > limit:
            text = text.format(share=share, before=usual, name=name)
            findings.alarm(f"quality.{rule}", share, limit, text, name)

    for name in current:
        now = current[name]
        before = reference[name]
        text = "{share:.1%} of {name} are missing, in the reference {before:.1%}"
        check("nulls", name, now.isna(), before.isna(), float(max_nulls[name]), text)
        if categories := schema.features[name].categories:
            text = "{share:.1%} of {name} are categories that the contract does not list"
            unseen = [one.notna() & ~one.isin(categories) for one in (now, before)]
            check("unseen", name, *unseen, max_unseen, text)
    names = [name for name in current if name in schema.numeric]  # seasons do this: no alarm
    known = reference[names]
    outside = ((current[names] < known.min()) | (current[names] > known.max())).mean()
    return DataQuality(**shares, outside=outside.to_dict())


def check_rejected(window: MonitoringWindow, max_share: float, findings: Findings) -> RejectedShare:
    """Return how many requests were rejected, and where."""
    count = sum(window.rejected.values())
    total = count + window.requests
    share = count / max(1, total)
    places: dict[str, int] = {}
    for (kind, place), number in sorted(window.rejected.items(), key=lambda item: -item[1]):
        named = place or kind
        places[named] = places.get(named, 0) + number
    refused = f"refused {share:.0%} of {total:,} requests"
    if share > max_share and count < MIN_REJECTED:
        findings.not_judged["quality.refused"] = f"{refused}: too few for an alarm"
    elif share > max_share:
        most = ", ".join(f"{place} {number:,}" for place, number in list(places.items())[:3])
        findings.alarm("quality.refused", share, max_share, f"{refused}: {most}")
    return RejectedShare(requests=count, share=share, limit=max_share, places=places)


def check_volume(window: MonitoringWindow, params: Monitor, findings: Findings) -> Volume:
    """Return the rows, and how many are usual."""
    low, high = params.quality.volume
    earlier = [rows for rows in window.earlier if rows >= params.min_rows]
    if len(earlier) < MIN_EARLIER_WINDOWS:
        findings.not_judged["quality.volume"] = (
            f"it takes {MIN_EARLIER_WINDOWS} windows before this one to know what is usual"
        )
        return Volume(rows=window.traffic, limits=(low, high))
    usual = float(np.median(earlier))
    if not low * usual <= window.traffic <= high * usual:
        limit = (low if window.traffic < usual else high) * usual
        text = f"{window.traffic:,} rows, usual are {usual:,.0f}"
        findings.alarm("quality.volume", window.traffic, limit, text)
    return Volume(rows=window.traffic, usual=usual, limits=(low, high))
