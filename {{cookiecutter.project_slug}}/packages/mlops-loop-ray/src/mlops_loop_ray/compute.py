"""Where large work runs: on the Ray cluster that RAY_ADDRESS names."""
