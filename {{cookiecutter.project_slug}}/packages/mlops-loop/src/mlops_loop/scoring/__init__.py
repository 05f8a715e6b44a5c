"""What production runs: the bundle, the scorers that open its model, derived features, predictions.

Begin with `bundle.py` and `scorer.py`. No module imports a training library at the top.
"""
