"""The command line: one file of verbs for each room; a verb imports what it needs when it runs.

Begin with `app.py`.
"""
