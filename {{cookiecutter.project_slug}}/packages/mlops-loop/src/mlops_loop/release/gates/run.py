"""The order in which `promote` runs the gates; one that is null says that it is off."""

from collections.abc import Callable
from typing import TypeVar

import pandas as pd

from mlops_loop.base.params import Gates, Params
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release.candidate import Candidate, open_candidate, open_champion
from mlops_loop.release.gates import champion, files, leakage, own_gates, quality
from mlops_loop.release.smoke_test import run as smoke_test
from mlops_loop.scoring.bundle import Bundle

Limits = TypeVar("Limits")  # a gate's section of params.yaml
GATES = (
    "leakage",
    "labels",
    "parity",
    "size",
    "baseline",
    "champion",
    "slices",
    "calibration",
    "fairness",
    "behaviour",
)


def run_gates(
    bundle: Bundle, champion: Bundle | None, window: pd.DataFrame, params: Params
) -> list[GateResult]:
    """Return what every gate says of a bundle; both models score the same window."""
    started = start(bundle, window, params.gates)
    # First, because a bundle that does not start cannot be asked anything.
    if any(result.passed is False and result.gate == "server" for result in started):
        return started + [GateResult(name, "the server comes first") for name in GATES]
    compared = open_champion(champion, bundle, window, params) if champion else None
    candidate = open_candidate(bundle, compared, window, params.evaluate)
    return [*started, *check(candidate, params.gates), *own_gates.own_gates(candidate)]


def start(bundle: Bundle, window: pd.DataFrame, gates: Gates) -> list[GateResult]:
    """Start the bundle in the real server; return what the gates `server` and `latency` say."""
    if gates.server is None:
        why = "not measured, as gates.server is off" if gates.latency else "off"
        return [GateResult("server", "off"), GateResult("latency", why)]
    tested = smoke_test.run(bundle, window, gates.server)
    found = files.server(tested, gates.server)
    if gates.latency is None:
        return [*found, GateResult("latency", "off")]
    return [*found, *files.latency(tested, gates.latency)]


def check(candidate: Candidate, gates: Gates) -> list[GateResult]:
    """Return what the loop's gates say of a candidate, in their order."""

    def run(
        name: str, gate: Callable[[Candidate, Limits], list[GateResult]], limits: Limits | None
    ) -> list[GateResult]:
        return gate(candidate, limits) if limits else [GateResult(name, "off")]

    return [
        *run("leakage", leakage.leakage, gates.leakage),
        *run("labels", champion.labels, gates.labels),
        *run("parity", files.parity, gates.parity),
        *run("size", files.size, gates.size),
        *run("baseline", quality.baseline, gates.baseline),
        *run("champion", champion.champion, gates.champion),
        *run("slices", quality.slices, gates.slices),
        *run("calibration", quality.calibration, gates.calibration),
        *run("fairness", quality.fairness, gates.fairness),
        *run("behaviour", quality.behaviour, gates.behaviour),
    ]
