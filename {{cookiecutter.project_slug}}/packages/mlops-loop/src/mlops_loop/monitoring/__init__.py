"""A window of logged predictions: drift, data quality, performance, alerts, retraining.

Begin with `monitor.py` and `drift.py`; `retrain.py` decides from what they found.
"""
