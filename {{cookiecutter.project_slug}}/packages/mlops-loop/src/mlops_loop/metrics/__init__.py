"""What differs by task: metrics and baselines; intervals, calibration and fairness.

Begin with `tasks.py` and `regression.py`, which says what a task has.
"""
