"""A window of logged predictions: drift, data quality, performance, alerts, retraining.

Begin with `monitor.py` and `evaluate_window.py`; `retraining/retrain.py` decides from the findings.
"""
