"""Capacity: what a load needs. Begin with plan.py."""
