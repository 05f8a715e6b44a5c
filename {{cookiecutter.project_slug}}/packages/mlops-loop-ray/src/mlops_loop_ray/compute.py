"""Where large work runs: on the Ray cluster that RAY_ADDRESS names."""

from mlops_loop_ray.parallel import parallel
from mlops_loop_ray.score import score
from mlops_loop_ray.tune import tune

__all__ = ["parallel", "score", "tune"]
