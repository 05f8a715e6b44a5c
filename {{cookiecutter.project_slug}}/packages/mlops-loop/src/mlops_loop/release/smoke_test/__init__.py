"""The smoke test: the candidate in the real server. Begin with run.py."""
