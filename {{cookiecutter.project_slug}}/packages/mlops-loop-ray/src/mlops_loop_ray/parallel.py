"""Parallel: what joblib runs in here runs on the cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import joblib
from mlops_loop.base.project import VARIABLE
from ray.util.joblib import register_ray

from mlops_loop_ray.cluster import connected


@contextmanager
def parallel() -> Iterator[None]:
    """Let `joblib.Parallel` use every CPU of the cluster."""
    with connected():
        register_ray()
        # Calls of a dead worker or node are made again, by another one.
        options = {"max_restarts": -1, "max_task_retries": -1}
        env = {"runtime_env": {"env_vars": {VARIABLE: os.environ[VARIABLE]}}}
        with joblib.parallel_config("ray", n_jobs=-1, ray_remote_args=options | env):
            yield
