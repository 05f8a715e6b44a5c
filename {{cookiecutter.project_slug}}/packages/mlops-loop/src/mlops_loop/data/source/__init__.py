"""Read any table, some rows at a time: CSV, Parquet, JSON lines or SQL. Begin in read.py."""
