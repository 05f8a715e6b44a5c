"""Serve: the model behind HTTP, in an environment without training libraries."""
