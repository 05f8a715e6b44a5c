"""Prediction log: every answered prediction and its ground truth, in SQLite or PostgreSQL.

Begin with `tables.py` (what is stored) and `writing` (how an answer becomes durable).
"""
