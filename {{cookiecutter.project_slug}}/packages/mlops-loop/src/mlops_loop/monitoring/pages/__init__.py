"""The pages that `monitor` writes: one for each window, and an index over all."""
