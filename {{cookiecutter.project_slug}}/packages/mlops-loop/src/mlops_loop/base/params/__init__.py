"""params.yaml: a module for each of its sections, so that a change runs the stages of that section.

Begin with `params_file.py`.
"""
