"""Own gates: those that project.py names, after the loop's."""

from dataclasses import replace

from mlops_loop.base import project
from mlops_loop.base.errors import Failure
from mlops_loop.metrics.gate_result import GateResult
from mlops_loop.release.candidate import Candidate


def own_gates(candidate: Candidate) -> list[GateResult]:
    """Return what the project's own gates say, each under its name in project.py."""
    found = list[GateResult]()
    for name, gate in project.load_all("gates").items():
        found += checked(name, gate(candidate))
    return found


def checked(name: str, returned: object) -> list[GateResult]:
    """Return the results of an own gate; raise a Failure if it returned something else."""
    given = returned if isinstance(returned, list) else [returned]
    results = [result for result in given if isinstance(result, GateResult)]
    if not results or len(results) < len(given):
        wanted = "return a GateResult, such as compare(...) gives, or a list of them"
        raise Failure(f"project.py: gates: {name} returned {returned!r}: {wanted}")
    return [replace(result, gate=name_of(name, result)) for result in results]


def name_of(name: str, result: GateResult) -> str:
    """Return the gate's name, and what the result is about: "recall: carrier=HA"."""
    about = result.gate.removeprefix(name).removeprefix(":").strip()
    return f"{name}: {about}" if about else name
