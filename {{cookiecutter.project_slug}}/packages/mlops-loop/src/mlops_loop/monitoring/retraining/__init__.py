"""Retraining: decide from evidence, run the pipeline, ask the gates. Begin with retrain.py."""
