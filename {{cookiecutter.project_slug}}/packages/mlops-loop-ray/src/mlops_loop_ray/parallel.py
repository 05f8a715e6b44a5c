"""Parallel: what joblib runs in here runs on the cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

import joblib
from mlops_loop.base.project import VARIABLE
from ray.util.joblib import register_ray

from mlops_loop_ray.cluster import connected, project


@contextmanager
def parallel() -> Iterator[None]:
    """Let `joblib.Parallel` use every CPU of the cluster."""
    with connected():
        register_ray()
        # Calls of a dead worker or node are made again, by another one.
        options = {"max_restarts": -1, "max_task_retries": -1}
        env = {"env_vars": {VARIABLE: project()}}
        with joblib.parallel_config(
            "ray", n_jobs=-1, ray_remote_args=options | {"runtime_env": env}
        ):
            yield
