"""Gates: what a candidate must pass before it may become champion. Each is seen red in a test.

A gate is a function of the candidate and of its section of params.yaml: gates. Begin with run.py.
"""
