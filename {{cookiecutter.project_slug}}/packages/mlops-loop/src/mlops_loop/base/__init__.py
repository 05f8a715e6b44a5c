"""What every room needs: errors and exit codes, files, YAML, settings, parameters, the project.

Begin with `project.py` (what a project plugs in) and `errors.py` (how a verb ends).
"""
