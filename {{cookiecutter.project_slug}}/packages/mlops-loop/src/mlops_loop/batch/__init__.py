"""Predictions and ground truth for whole files, folders and URLs.

Begin with `score.py`.
"""
