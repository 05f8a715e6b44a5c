"""From a source to the three windows: read, cast, validate, split.

Begin with `ingest.py`, `validate.py` and `split.py`, which are stages of the pipeline.
"""
