"""The model card, written from the run's own evidence. Begin with compose.py."""
