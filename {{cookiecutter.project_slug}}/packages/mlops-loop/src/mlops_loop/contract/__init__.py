"""The data contract, schema.yaml: what each column is, and which changes break clients.

Begin with `schema.py`; `compatibility.py` compares two contracts.
"""
