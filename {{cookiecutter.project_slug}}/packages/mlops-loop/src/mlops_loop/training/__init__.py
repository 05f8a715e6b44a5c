"""The stages that make a bundle - train, evaluate, export - and the search for parameters.

Begin with `train.py`, then `evaluate.py` and `export.py`.
"""
