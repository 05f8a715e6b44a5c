"""Data quality of a window: missing values, unknown categories, rejected requests, volume."""

import numpy as np
import pandas as pd

from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.monitoring_window import logged_features
from mlops_loop.prediction_log.window_summary import ColumnShare, DataQuality, RejectedShare, Volume

MIN_REJECTED = 10  # requests; fewer are no alarm, however few there are in all
MIN_EARLIER_WINDOWS = 3  # with enough rows, to tell how many are usual


def check_columns(found: Evaluation, max_nulls: pd.Series) -> DataQuality:
    """Return the shares of missing values and unknown categories, and of numbers out of range."""
    schema = found.schema
    names = logged_features(schema)
    features = found.window.answered.features[names]
    nulls = {}
    unseen = {}
    for name in names:
        now = features[name]
        before = found.reference[name]
        text = "{share:.1%} of {name} are missing, in the reference {before:.1%}"
        shares = (now.isna().mean(), before.isna().mean(), max_nulls[name])
        nulls[name] = check_share(found, "quality.nulls", name, *shares, text)
        if categories := schema.features[name].categories:
            text = "{share:.1%} of {name} are categories that the contract does not list"
            here, usual = ((one.notna() & ~one.isin(categories)).mean() for one in (now, before))
            shares = (here, usual, found.params.monitor.quality.max_unseen)
            unseen[name] = check_share(found, "quality.unseen", name, *shares, text)
    numbers = features[[name for name in names if name in schema.numeric]]
    known = found.reference[list(numbers)]
    outside = ((numbers < known.min()) | (numbers > known.max())).mean()  # seasons do this
    return DataQuality(nulls=nulls, unseen=unseen, outside=outside.to_dict())


def check_share(
    found: Evaluation, rule: str, name: str, share: float, before: float, max_rise: float, text: str
) -> ColumnShare:
    limit = before + max_rise
    if share > limit:
        text = text.format(share=share, before=before, name=name)
        found.alarm(rule, share, limit, text, name)
    return ColumnShare(share=share, reference=before, limit=limit)


def check_rejected(found: Evaluation) -> RejectedShare:
    """Return how many requests were rejected, and where."""
    limit = found.params.monitor.quality.max_refused
    count = sum(found.window.rejected.values())
    total = count + found.window.requests
    share = count / max(1, total)
    places: dict[str, int] = {}
    for (kind, place), number in sorted(found.window.rejected.items(), key=lambda item: -item[1]):
        named = place or kind
        places[named] = places.get(named, 0) + number
    refused = f"refused {share:.0%} of {total:,} requests"
    if share > limit and count < MIN_REJECTED:
        found.not_judged["quality.refused"] = f"{refused}: too few for an alarm"
    elif share > limit:
        most = ", ".join(f"{place} {number:,}" for place, number in list(places.items())[:3])
        found.alarm("quality.refused", share, limit, f"{refused}: {most}")
    return RejectedShare(requests=count, share=share, limit=limit, places=places)


def check_volume(found: Evaluation) -> Volume:
    """Return the rows, and how many are usual."""
    traffic = found.window.traffic
    low, high = found.params.monitor.quality.volume
    earlier = [rows for rows in found.window.earlier if rows >= found.params.monitor.min_rows]
    if len(earlier) < MIN_EARLIER_WINDOWS:
        found.not_judged["quality.volume"] = (
            f"it takes {MIN_EARLIER_WINDOWS} windows before this one to know what is usual"
        )
        return Volume(rows=traffic, limits=(low, high))
    usual = float(np.median(earlier))
    if not low * usual <= traffic <= high * usual:
        limit = (low if traffic < usual else high) * usual
        found.alarm("quality.volume", traffic, limit, f"{traffic:,} rows, usual are {usual:,.0f}")
    return Volume(rows=traffic, usual=usual, limits=(low, high))
