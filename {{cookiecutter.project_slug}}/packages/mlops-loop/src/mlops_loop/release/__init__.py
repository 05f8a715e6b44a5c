"""From candidate to champion and back: gates, promotion, rollback, audit log, trace, reproduce.

Begin with `promote.py` and the gates that it runs.
"""
