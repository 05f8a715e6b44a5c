"""A window of logged predictions: drift, data quality, performance, alerts, retraining.

Begin with `monitor.py`; `retraining/retrain.py` decides from the findings.
"""
