"""The command line: a verb imports what it needs when it runs.

Begin with `app.py`.
"""
