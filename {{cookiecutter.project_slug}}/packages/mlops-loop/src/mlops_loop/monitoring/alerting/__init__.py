"""Alerts: who is notified of what `monitor` finds. Begin with alerts.py."""
