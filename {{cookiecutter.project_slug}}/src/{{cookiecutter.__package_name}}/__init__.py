import os

NAME = __name__.replace("_", "-")  # of the command, the registered model and the service

# Read by the tools when they are imported, so it is set before any of them is.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DVC_NO_ANALYTICS", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
