"""What differs by task: metrics, baselines and plots; intervals, calibration and fairness.

Begin with `tasks.py`, which says what a task has, and `binary_classification.py`.
"""
