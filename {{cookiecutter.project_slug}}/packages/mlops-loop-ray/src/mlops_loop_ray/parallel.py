"""Parallel: what joblib runs in here runs on the cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

import joblib
from ray.util.joblib import register_ray

from mlops_loop_ray.cluster import connected

RETRIES = 3  # of a call whose worker or node died


@contextmanager
def parallel() -> Iterator[None]:
    """Let `joblib.Parallel` use every CPU of the cluster."""
    with connected():
        register_ray()
        options = {"max_restarts": -1, "max_task_retries": RETRIES}
        with joblib.parallel_config("ray", n_jobs=-1, ray_remote_args=options):
            yield
