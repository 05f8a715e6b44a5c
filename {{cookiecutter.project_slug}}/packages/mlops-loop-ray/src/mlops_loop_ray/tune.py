"""Tune: Optuna's trials as Ray tasks. Study, MLflow and params.yaml are the driver's alone."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import optuna
import ray
from mlops_loop.base.errors import Failure
from mlops_loop.base.params import Arguments
from mlops_loop.base.project import Project, current_project, use
from optuna.trial import TrialState

from mlops_loop_ray.cluster import connected, reason

if TYPE_CHECKING:  # MLflow and scikit-learn, which scoring would load with it
    from mlops_loop.training.tune import Search


@ray.remote  # type: ignore[untyped-decorator]
def evaluate(search: "Search", settings: Arguments, project: Project) -> float:
    use(project)
    return search.evaluate(settings)


def tune(search: "Search", study: optuna.Study, trials: int, end: float) -> Iterator[None]:
    """Run trials, as many at a time as the cluster has CPUs."""
    with connected():
        shared = ray.put(search)
        most = max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: dict[ray.ObjectRef[float], tuple[optuna.Trial, Arguments]] = {}
        while True:
            while trials and len(running) < most and time.monotonic() < end:
                # Each with a seed of its own; those under way count as poor, so that the next
                # ones look elsewhere.
                seed = search.params.seed + len(study.get_trials(deepcopy=False))
                study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
                trial = study.ask()
                settings = search.proposed(trial)
                answer = evaluate.remote(shared, settings, current_project())
                running[answer] = trial, settings
                trials -= 1
            if not running:
                return
            (done, *_), _ = ray.wait(list(running))
            trial, settings = running.pop(done)
            try:
                value = ray.get(done)
            except ray.exceptions.RayError as error:
                study.tell(trial, state=TrialState.FAIL)
                raise Failure(f"trial {trial.number}: {reason(error)}") from None
            search.loss(settings, f"trial {trial.number}", value)
            study.tell(trial, value)
            yield
