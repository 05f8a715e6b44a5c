"""Compute: a Ray cluster, where RAY_ADDRESS names one and the project has the package for it."""

import os
from importlib.metadata import entry_points
from types import ModuleType

ADDRESS = "RAY_ADDRESS"


def cluster() -> ModuleType | None:
    """Return the package that runs large work on a cluster; None where it runs on this machine."""
    if not os.environ.get(ADDRESS):
        return None
    found: list[ModuleType] = [one.load() for one in entry_points(group="mlops_loop.compute")]
    return found[0] if found else None
