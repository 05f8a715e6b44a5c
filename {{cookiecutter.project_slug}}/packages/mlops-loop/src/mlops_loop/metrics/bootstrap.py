"""Bootstrap: how sure a metric is, from resamples of the test window.

Whole days are resampled, because rows of one day are alike: they share its weather and its
congestion. As if each row stood on its own, intervals would be too narrow. Sources: Field and
Welsh, Bootstrapping clustered data, JRSS B 2007; and for the Poisson weights, which stand for how
often a day was drawn, Hanley and MacGibbon, Creating non-parametric bootstrap samples using Poisson
frequencies, 2006.
"""

import numpy as np
import pandas as pd

from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.metrics.values import Intervals, Numbers, Scored, Weighted

FEWEST_DAYS = 20  # fewer are too few to resample


def days(table: pd.DataFrame, schema: Schema) -> Numbers:
    """Return a code for the group that each row is resampled with, shape (rows,): its day.

    It is the row's own number where the table has no time, or fewer than FEWEST_DAYS days.
    """
    if schema.timestamp:
        codes, found = pd.factorize(table[schema.timestamp].dt.floor("D"))
        if len(found) >= FEWEST_DAYS:
            return np.asarray(codes)
    return np.arange(len(table))


def resample(statistic: Weighted, groups: Numbers, resamples: int) -> pd.DataFrame:
    """Return the statistics of each resample of the rows: a row each, a column for each metric.

    The weights depend on `groups` only, so two models are compared on the same. A metric that a
    resample does not have, such as an AUC of one class only, is NaN there.
    """
    draws = np.random.default_rng(0)
    count = int(groups.max()) + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return pd.DataFrame(statistic(draws.poisson(1.0, count)[groups]) for _ in range(resamples))


def intervals(table: pd.DataFrame, scored: Scored) -> Intervals:
    """Return the 95 % interval (low, high) of each metric that can be resampled."""
    statistic = tasks.of(scored.schema).weighted_metrics(scored)
    found = resample(statistic, days(table, scored.schema), 200)
    return {name: tuple(found[name].quantile([0.025, 0.975])) for name in found}
