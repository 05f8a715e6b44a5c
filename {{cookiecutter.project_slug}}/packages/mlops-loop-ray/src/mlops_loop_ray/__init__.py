"""Batch scoring, searches and segments on a Ray cluster; README.md says how."""
