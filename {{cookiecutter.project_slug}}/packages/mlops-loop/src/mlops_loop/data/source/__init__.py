"""Read any table: CSV, Parquet, JSON lines or SQL. Begin in read.py."""
