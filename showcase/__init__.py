"""The showcase: the flights of 2013, month by month, against a rendered project.

It knows the project from outside only: by its verbs, the JSON documents that they write, its HTTP
API and the documented tables of the prediction log. Begin with `year.py`, which tells the story.
"""
