"""The smoke test: the candidate in the real server, before it may become champion. Begin with run.py."""
