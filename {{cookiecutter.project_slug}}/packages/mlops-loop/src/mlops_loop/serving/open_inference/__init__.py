"""The Open Inference Protocol, V2: requests and responses, and the endpoints in `routes.py`."""
