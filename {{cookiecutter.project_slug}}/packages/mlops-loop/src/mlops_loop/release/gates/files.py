"""What the candidate is as files, and as a running server: export, size, answers, speed."""

import numpy as np

from mlops_loop.base import files
from mlops_loop.base.files import MODEL
from mlops_loop.base.params import LatencyGate, ParityGate, ServerGate, SizeGate
from mlops_loop.metrics.gate_result import GateResult, compare
from mlops_loop.release.candidate import Candidate
from mlops_loop.release.smoke_test.run import SmokeTest
from mlops_loop.scoring.scorer import open_scorer
from mlops_loop.scoring.skops_model import load
from mlops_loop.training import export


def parity(candidate: Candidate, limits: ParityGate) -> list[GateResult]:
    """Judge the relative difference between the exported model's scores and the trained one's."""
    model = load(MODEL)
    scorer = open_scorer(candidate.bundle)
    table = candidate.table
    parts = (table.iloc[first : first + files.BATCH] for first in range(0, len(table), files.BATCH))
    found = max(export.difference(model, scorer, part, candidate.schema) for part in parts)
    return [compare("parity", "largest difference, relative", found, "<=", limits.max_difference)]


def size(candidate: Candidate, limits: SizeGate) -> list[GateResult]:
    """Judge the size of the bundle's folder; a megabyte has 1,000,000 bytes."""
    paths = candidate.bundle.folder.rglob("*")
    found = sum(path.stat().st_size for path in paths if path.is_file()) / 1e6
    return [compare("size", "megabytes of the bundle", found, "<=", limits.max_megabytes)]


def server(tested: SmokeTest, limits: ServerGate) -> list[GateResult]:
    """Judge whether the bundle starts in the real server and answers as its model does."""
    answers = tested.answers
    if answers is None:
        return [GateResult("server", tested.reason, passed=False)]
    first = "".join(f" ({about})" for about in answers.wrong[:1])
    started = f"seconds until it is ready, at most {limits.timeout:g}"
    other = f"of {answers.predictions} answers, other than the model's"
    odd = f"of {answers.odd} odd requests, answered wrongly{first}"
    return [
        GateResult("server", started, tested.seconds, passed=True),
        compare("server", other, answers.differing, "<=", 0),
        compare("server", odd, len(answers.wrong), "<=", 0),
    ]


def latency(tested: SmokeTest, limits: LatencyGate) -> list[GateResult]:
    """Judge the 95th percentile of the time that a request with one row takes."""
    if tested.answers is None:
        return [GateResult("latency", "not measured, as the server does not start")]
    milliseconds = tested.answers.milliseconds
    measure = f"95th percentile of {len(milliseconds)} requests with one row, ms"
    slow = float(np.percentile(milliseconds, 95))
    return [compare("latency", measure, slow, "<=", limits.p95_milliseconds)]
