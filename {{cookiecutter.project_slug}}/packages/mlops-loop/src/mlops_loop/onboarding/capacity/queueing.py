"""How long a request waits for a worker."""

import math
from typing import NamedTuple

TAIL = 0.05  # the share of requests that wait longer than the 95th percentile


class Wait(NamedTuple):
    mean: float  # in the unit of the service time
    p95: float


def erlang_c(workers: int, load: float) -> float:
    """Return the share of requests that wait, at a load in busy workers (M/M/c).

    Erlang's C formula by the recursion of his B formula: Kleinrock, Queueing Systems I (1975), 3.5.
    """
    blocked = 1.0
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def wait(workers: int, load: float, service: float, variation: float) -> Wait:
    """Return the wait in one queue for all workers (M/G/c); infinite if they do not keep up.

    The approximation of Allen and Cunneen (Allen, Probability, Statistics, and Queueing Theory,
    1990): M/M/c's wait times the mean of the squared coefficients of variation, which is 1 between
    random arrivals and `variation` of the service. Who waits, waits an exponential time.
    """
    if load >= workers:
        return Wait(math.inf, math.inf)
    share = erlang_c(workers, load)
    waiting = service / (workers - load) * (1 + variation) / 2
    return Wait(share * waiting, waiting * max(0.0, math.log(share / TAIL)) if share else 0.0)
