"""What every request passes: authentication, limits, telemetry. Begin with `middleware.py`."""
