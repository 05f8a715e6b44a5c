"""`schema infer`: profile a table, propose its contract, adapt the project. Begin in main.py."""
