"""Batch scoring, searches and segments on a Ray cluster; README.md says how."""

import os

# Before Ray is imported. From a driver below `uv run` it would send the folder, and start each
# worker by `uv run`.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
