"""The page of an evaluation: whether the candidate is good, then the evidence."""

from mlops_loop.base import files
from mlops_loop.contract.schema import Schema
from mlops_loop.metrics import tasks
from mlops_loop.reporting import page
from mlops_loop.reporting.formats import interval, number
from mlops_loop.reporting.markdown import embedded
from mlops_loop.training.evidence import Evidence


def write(evidence: Evidence, schema: Schema) -> None:
    text = page.compose(
        page.PAGES["Evaluation"],
        "evaluation.html",
        names=("Data",),  # a stage's page: it links to what is surely there
        title="Evaluation",
        facts=["candidate, before the gates", f"{evidence.metrics['test']['rows']:,} test rows"],
        verdict=verdict(evidence, schema),
        schema=schema,
        evidence=evidence,
        pictures={name: embedded(f"plots/{name}.png", files.REPORTS) for name in evidence.plots},
    )
    files.write_text(page.PAGES["Evaluation"], text)
    page.write_overview()


def verdict(evidence: Evidence, schema: Schema) -> str:
    """Return in a sentence whether the candidate beats the naive baseline."""
    name, more_is_better = tasks.deciding_metric(schema)
    value, usual = (evidence.metrics[window][name] for window in ("test", "baseline"))
    ends = evidence.intervals[name]
    sign = 1 if more_is_better else -1
    better = "Better" if sign * (value - usual) > 0 else "Not better"
    word = "Surely better" if min(sign * (end - usual) for end in ends) > 0 else better
    measured = f"{name} {number(value)} ({interval(*ends)})"
    return f"{word} than the naive baseline: {measured} against {number(usual)}."
