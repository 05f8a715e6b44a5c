"""Behaviour: what the model must do whatever its metrics. Begin with check.py.

Three kinds of test, after Ribeiro et al., Beyond Accuracy: Behavioral Testing of NLP Models with
CheckList, ACL 2020: invariance, directional expectation and minimum functionality.
"""
