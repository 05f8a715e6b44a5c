"""The verb `capacity`: its queueing formulas, its plans, and its unit costs measured for real."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from mlops_loop.base.errors import Failure
from mlops_loop.cli.app import named
from mlops_loop.onboarding.capacity import measure
from mlops_loop.onboarding.capacity.plan import Load, Plan, UnitCosts, plan, shipped
from mlops_loop.onboarding.capacity.queueing import erlang_c, wait

COSTS = UnitCosts(
    about="made up",
    request_ms=0.9,
    row_ms=0.1,
    latency_ms=2,
    latency_p95_ms=3,
    variation=0.5,
    serving_mib=128,
    score_seconds=10,
    score_mib=512,
    log_bytes=1024,
)


def run(*words: str) -> Result:
    return CliRunner().invoke(named("churn"), ["capacity", *words])


@pytest.mark.parametrize(
    ("workers", "load", "share"),
    [(1, 0.7, 0.7), (2, 1, 1 / 3), (10, 8, 0.4092), (100, 90, 0.2170), (3, 0, 0)],
)
def test_erlang_c_has_known_values(workers, load, share) -> None:
    assert erlang_c(workers, load) == pytest.approx(share, abs=1e-4)


def test_the_wait_is_that_of_known_queues() -> None:
    # M/M/1 waits load / (1 - load) services, M/D/1 half of that.
    assert wait(1, 0.8, 1, 1).mean == pytest.approx(4)
    assert wait(1, 0.8, 1, 0).mean == pytest.approx(2)
    assert wait(1, 0.8, 1, 1).p95 == pytest.approx(math.log(0.8 / 0.05) / 0.2)
    assert wait(1, 0.04, 1, 1).p95 == 0  # 96 of 100 do not wait
    assert wait(2, 2, 1, 1) == (math.inf, math.inf)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 1e5), st.floats(1, 3), st.floats(0.05, 0.95), st.integers(1, 1000))
def test_more_load_never_needs_less(rps, times, utilisation, rows) -> None:
    limit = COSTS.latency_p95_ms + COSTS.row_ms * rows + 0.1
    for p95 in (None, limit):
        load = Load(rps, rps, rows, utilisation, p95)
        less, more = plan(load, COSTS), plan(load._replace(rps=rps * times), COSTS)
        assert less.cores <= more.cores
        assert less.memory_gib <= more.memory_gib
        assert less.log.gib <= more.log.gib * (1 + 1e-9)
        assert less.cost_per_month.total <= more.cost_per_month.total * (1 + 1e-9)
        assert less.serving.utilisation <= utilisation * (1 + 1e-9)
        assert p95 is None or less.serving.random_p95_ms <= limit


def test_a_plan_by_hand() -> None:
    found = plan(Load(5000, 2e9, 11, utilisation=0.5, retention_days=2), COSTS)
    assert found.serving.cpu_ms == pytest.approx(2)
    assert (found.serving.busy_cores, found.serving.replicas) == (pytest.approx(10), 20)
    assert found.serving.memory_gib == pytest.approx(20 * 128 / 1024)
    assert found.serving.p95_ms < found.serving.random_p95_ms
    assert found.batch.cpu_hours == pytest.approx(2e4 / 3600)
    assert (found.batch.cores, found.batch.hours) == (1, found.batch.cpu_hours)
    assert found.log.gib == pytest.approx(5000 * 11 * 86400 * 2 * 1024 / 2**30)
    assert found.cores == 21
    assert found.cost_per_month.cores == 21 * 25
    assert plan(Load(rps=1), COSTS).serving.replicas == 2  # one may fail


def test_the_verb_prints_the_plan_and_what_it_assumes() -> None:
    words = "--rps", "5000", "--rows-per-day", "2e9"
    printed = run(*words, "--core-month", "31")
    assert printed.exit_code == 0, printed.output
    found = Plan.model_validate_json(run(*words, "--core-month", "31", "--json").output)
    assert found == plan(Load(5000, 2e9, core_month=31), shipped())
    for part in (f"replicas           {found.serving.replicas}", "31 a core", *found.assumptions):
        assert part in printed.output
    assert "replicas  " not in run("--rows-per-day", "2e9").output
    assert json.loads(run("--rows-per-day", "2e9", "--json").output)["serving"] is None


WRONG = [
    [],
    ["--rps", "-1"],
    ["--rps", "nan"],
    ["--rps", "inf"],
    ["--rps", "1e7"],
    ["--rows-per-day", "many"],
    ["--rps", "1", "--utilisation", "1"],
    ["--rps", "1", "--utilisation", "0"],
    ["--rps", "1", "--p95", "0"],
    ["--rps", "1", "--rows-per-request", "1001"],
    ["--rps", "1", "--retention-days", "0"],
    ["--rps", "1", "--core-month", "nan"],
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage(words) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""


def test_a_limit_below_a_request_alone_is_refused() -> None:
    done = run("--rps", "5", "--rows-per-request", "1000", "--p95", "0.1")
    assert isinstance(done.exception, Failure)
    assert "a request of 1000 rows that waits for none takes" in str(done.exception)


def test_the_unit_costs_of_the_projects_own_server(project, monkeypatch) -> None:
    measured = measure.measure(single=400, many=200, scored=2000)
    positive = [value for name, value in measured if name != "about"]
    assert min(positive) > 0, measured
    assert measured.latency_ms <= measured.latency_p95_ms * 2
    assert 50 < measured.log_bytes < 10_000
    assert 30 < measured.serving_mib < 400
    assert plan(Load(rps=100), measured).serving.replicas >= 2
    monkeypatch.setenv("BUNDLE", "none")
    assert isinstance(run("--rps", "1", "--measure").exception, Failure)
