"""Data quality of a window: missing values, unknown categories, rejected requests, volume."""

from collections import Counter

import numpy as np
import pandas as pd

from mlops_loop.monitoring.drift import NULLS
from mlops_loop.monitoring.evaluation import Evaluation
from mlops_loop.monitoring.monitoring_window import logged_features
from mlops_loop.prediction_log.window_summary import ColumnShare, DataQuality, RejectedShare, Volume

MIN_REJECTED = 10  # requests; fewer are no alarm, however few there are in all
MIN_EARLIER_WINDOWS = 3  # with enough rows, to tell how many are usual


def check(found: Evaluation) -> DataQuality:
    quality = DataQuality(refused=check_rejected(found), volume=check_volume(found))
    if found.limits is None:
        return quality
    now = found.features[logged_features(found.schema)]
    before = found.reference[list(now)]
    max_nulls = found.limits[NULLS]
    text = "{share:.1%} of {name} are missing, in the reference {before:.1%}"
    nulls = check_shares(found, "quality.nulls", now.isna(), before.isna(), max_nulls, text)
    listed = {name: found.schema.features[name].categories for name in now}
    unknown, usual = (
        pd.DataFrame(
            {name: table[name].notna() & ~table[name].isin(it) for name, it in listed.items() if it}
        )
        for table in (now, before)
    )
    text = "{share:.1%} of {name} are categories that the contract does not list"
    most = pd.Series(found.params.monitor.quality.max_unseen, index=unknown.columns)
    unseen = check_shares(found, "quality.unseen", unknown, usual, most, text)
    numbers = now[[name for name in now if name in found.schema.numeric]]
    learned = before[list(numbers)]
    outside = ((numbers < learned.min()) | (numbers > learned.max())).mean()  # seasons do this
    facts = {"nulls": nulls, "unseen": unseen, "outside": outside.to_dict()}
    return quality.model_copy(update=facts)


def check_shares(
    found: Evaluation,
    rule: str,
    now: pd.DataFrame,
    before: pd.DataFrame,
    max_rise: pd.Series,
    text: str,
) -> dict[str, ColumnShare]:
    """Compare the share of rows, in each column, that are true in a window and in the reference."""
    shares = {}
    for name in now:
        share, usual = now[name].mean(), before[name].mean()
        limit = usual + max_rise[name]
        if share > limit:
            told = text.format(share=share, before=usual, name=name)
            found.alarm(rule, share, limit, told, name)
        shares[name] = ColumnShare(share=share, reference=usual, limit=limit)
    return shares


def check_rejected(found: Evaluation) -> RejectedShare:
    """Return how many requests were rejected, and where."""
    limit = found.params.monitor.quality.max_refused
    places = Counter[str]()
    for (kind, place), requests in found.window.rejected.items():
        places[place or kind] += requests
    count = places.total()
    total = count + found.window.requests
    share = count / max(1, total)
    refused = f"refused {share:.0%} of {total:,} requests"
    if share > limit and count < MIN_REJECTED:
        found.not_judged["quality.refused"] = f"{refused}: too few for an alarm"
    elif share > limit:
        most = ", ".join(f"{place} {requests:,}" for place, requests in places.most_common(3))
        found.alarm("quality.refused", share, limit, f"{refused}: {most}")
    listed = dict(places.most_common())
    return RejectedShare(requests=count, share=share, limit=limit, places=listed)


def check_volume(found: Evaluation) -> Volume:
    """Return the rows, and how many are usual."""
    traffic = found.window.traffic
    low, high = found.params.monitor.quality.volume
    earlier = [rows for rows in found.window.earlier if rows >= found.params.monitor.min_rows]
    if len(earlier) < MIN_EARLIER_WINDOWS:
        few = f"it takes {MIN_EARLIER_WINDOWS} windows before this one to know what is usual"
        found.not_judged["quality.volume"] = few
        return Volume(rows=traffic, limits=(low, high))
    usual = float(np.median(earlier))
    if not low * usual <= traffic <= high * usual:
        limit = (low if traffic < usual else high) * usual
        found.alarm("quality.volume", traffic, limit, f"{traffic:,} rows, usual are {usual:,.0f}")
    return Volume(rows=traffic, usual=usual, limits=(low, high))
