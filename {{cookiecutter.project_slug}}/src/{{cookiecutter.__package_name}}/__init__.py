import os

NAME = __name__.replace("_", "-")  # of the command, the registered model and the service

# No tool reports on its use. They read this when they are imported, so it is set before that.
os.environ.setdefault("DO_NOT_TRACK", "true")  # Evidently
os.environ.setdefault("DVC_NO_ANALYTICS", "true")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "true")  # ONNX Runtime, on by default since 1.29
