"""MLflow: a session with it, the run of a training, files beside an embedded registry.

Begin with `runs.py`.
"""
