"""The first hour: a contract for a table, checks of the machine, everything once.

Begin with the verb `schema infer`, then `demo.py` and `doctor.py`.
"""
