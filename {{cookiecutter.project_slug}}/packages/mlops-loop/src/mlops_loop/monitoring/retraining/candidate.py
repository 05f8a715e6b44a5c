"""Candidate: what a retraining made, beside the champion and the naive baseline."""

from contextlib import suppress

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_loop.base.errors import Failure
from mlops_loop.base.files import BUNDLE, TEST
from mlops_loop.base.params import Params
from mlops_loop.contract.schema import Schema
from mlops_loop.data import tables
from mlops_loop.data.split import SPLITS
from mlops_loop.metrics import tasks
from mlops_loop.monitoring.retraining.summary import Split
from mlops_loop.release.candidate import same_target, score
from mlops_loop.release.champion_inputs import with_champion_inputs
from mlops_loop.scoring.bundle import Bundle, open_bundle


def split_sizes(schema: Schema) -> dict[str, Split]:
    """Return rows, first and last time of the training, validation and test window."""
    found = {}
    for name, path in SPLITS.items():
        rows = pq.read_metadata(path).num_rows
        first = last = None
        if schema.timestamp:
            times = pq.read_table(path, columns=[schema.timestamp])[schema.timestamp]
            first = pc.min(times).as_py().isoformat()
            last = pc.max(times).as_py().isoformat()
        found[name] = Split(rows=rows, first=first, last=last)
    return found


Measured = dict[str, dict[str, float | None]]  # of candidate, champion and naive baseline


def candidate_metrics(champion: Bundle | None, params: Params) -> Measured:
    """Return the metrics of candidate, champion and naive baseline on the newest window."""
    candidate = open_bundle(BUNDLE)
    found: Measured = {"candidate": candidate.manifest.metrics}
    with suppress(Failure):  # of two that cannot be compared: `promote` says why
        if champion and same_target(champion, candidate):
            schema = candidate.schema
            table = tables.read_sample(TEST, params.gates.max_rows)
            task = tasks.of(schema)
            inputs = with_champion_inputs(champion.schema, schema, table, params)
            scores = score(champion, inputs)
            known = champion.operating_point
            truth = task.truth(table, schema)
            found["champion"] = {**task.measure(truth, scores, known, schema, params.evaluate)}
    return found | {"naive baseline": candidate.manifest.baseline}
