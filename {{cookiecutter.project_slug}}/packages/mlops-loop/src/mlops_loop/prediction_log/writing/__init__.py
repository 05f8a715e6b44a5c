"""The durable writer: queue, database, spool and replay. Begin with `writer.py`."""
