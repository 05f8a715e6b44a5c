"""Pages and charts, made from values and names; no page knows the task.

Begin with `page.py`. `templates/` holds every page, on one base with one stylesheet.
"""
