"""Plan: cores, memory, replicas, log and monthly cost of a load, from measured unit costs."""

import math
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import read_json
from mlops_loop.onboarding.capacity.queueing import wait

UNIT_COSTS = Path(__file__).with_name("unit_costs.json")  # `make bench-scale` writes it
SPARE = 2  # replicas at least, so that one may fail
DAY = 86400
MONTH = 30  # days
MILLION = 1e6


class UnitCosts(BaseModel, frozen=True, extra="forbid"):
    """What one unit of each kind of work costs; `about` says where that was measured."""

    about: str
    request_ms: float  # CPU of a request, beside its rows
    row_ms: float  # CPU of each of its rows
    latency_ms: float  # of a request with one row that waits for none
    latency_p95_ms: float
    variation: float  # of that time: its variance by its squared mean
    serving_mib: float  # of a server with one worker
    score_seconds: float  # CPU of `score` for a million rows
    score_mib: float
    log_bytes: float  # of a logged prediction


class Load(NamedTuple):
    """What is asked for, and what is assumed of it."""

    rps: float = 0
    rows_per_day: float = 0
    rows_per_request: int = 1
    utilisation: float = 0.7
    p95_ms: float | None = None
    retention_days: int = 90
    core_month: float = 25
    gib_month: float = 3
    disk_gib_month: float = 0.1


class Serving(BaseModel):
    cpu_ms: float  # of a request
    busy_cores: float
    replicas: int
    utilisation: float
    memory_gib: float
    p95_ms: float  # at best: a request goes to the replica that is free first
    random_p95_ms: float  # each goes to any replica


class Batch(BaseModel):
    cpu_hours: float  # a day
    cores: int
    hours: float  # a day, on these
    memory_gib: float


class Log(BaseModel):
    rows_per_day: float
    gib_per_day: float
    gib: float


class Cost(BaseModel):
    cores: float
    memory: float
    log: float
    total: float


class Plan(BaseModel):
    serving: Serving | None
    batch: Batch | None
    log: Log
    cores: int
    memory_gib: float
    cost_per_month: Cost
    assumptions: list[str]
    unit_costs: UnitCosts


def shipped() -> UnitCosts:
    return UnitCosts.model_validate(read_json(UNIT_COSTS)["costs"])


def plan(load: Load, costs: UnitCosts) -> Plan:
    serving = serve(load, costs) if load.rps else None
    batch = score(load, costs) if load.rows_per_day else None
    rows = load.rps * load.rows_per_request * DAY
    per_day = rows * costs.log_bytes / 2**30
    log = Log(rows_per_day=rows, gib_per_day=per_day, gib=per_day * load.retention_days)
    cores = (serving.replicas if serving else 0) + (batch.cores if batch else 0)
    memory = sum(part.memory_gib for part in (serving, batch) if part)
    prices = cores * load.core_month, memory * load.gib_month, log.gib * load.disk_gib_month
    cost = Cost(cores=prices[0], memory=prices[1], log=prices[2], total=sum(prices))
    return Plan(
        serving=serving,
        batch=batch,
        log=log,
        cores=cores,
        memory_gib=memory,
        cost_per_month=cost,
        assumptions=assumptions(load, costs),
        unit_costs=costs,
    )


def serve(load: Load, costs: UnitCosts) -> Serving:
    """Return the fewest replicas that are busy and fast as demanded; each has a core."""
    cpu = costs.request_ms + costs.row_ms * load.rows_per_request
    busy = load.rps * cpu / 1000
    alone = costs.latency_p95_ms + costs.row_ms * (load.rows_per_request - 1)

    def p95(replicas: int, queues: int) -> float:
        return alone + wait(replicas // queues, busy / queues, cpu, costs.variation).p95

    fewest = max(SPARE, math.ceil(busy / load.utilisation))
    if load.p95_ms is not None:
        if alone > load.p95_ms:
            what = f"a request of {load.rows_per_request} rows that waits for none takes"
            raise Failure(f"{what} {alone:.3g} ms (p95): no number of replicas makes it faster")
        limit = load.p95_ms
        choices = range(fewest, 100 * fewest)
        fewest = choices[bisect_left(choices, True, key=lambda one: p95(one, one) <= limit)]
    return Serving(
        cpu_ms=cpu,
        busy_cores=busy,
        replicas=fewest,
        utilisation=busy / fewest,
        memory_gib=fewest * costs.serving_mib / 1024,
        p95_ms=p95(fewest, 1),
        random_p95_ms=p95(fewest, fewest),
    )


def score(load: Load, costs: UnitCosts) -> Batch:
    """Return what a day's rows need if they are scored within that day."""
    seconds = load.rows_per_day / MILLION * costs.score_seconds
    cores = math.ceil(seconds / DAY / load.utilisation)
    return Batch(
        cpu_hours=seconds / 3600,
        cores=cores,
        hours=seconds / 3600 / cores,
        memory_gib=cores * costs.score_mib / 1024,
    )


def assumptions(load: Load, costs: UnitCosts) -> list[str]:
    return [
        f"unit costs: {costs.about}",
        f"a replica: one worker, one core, {load.utilisation:.0%} busy at most; {SPARE} or more",
        "requests arrive at random, day and night at this rate",
        "p95 lies between one queue for all replicas (M/G/c) and one for each (M/G/1)",
        "batches are spread over the day; one process of `score` for each core",
        f"every answered row is logged, and kept for {load.retention_days} days, once",
        f"a month: {load.core_month:g} a core, {load.gib_month:g} a GiB of memory, "
        f"{load.disk_gib_month:g} a GiB of disk; training, the database and network are extra",
    ]
