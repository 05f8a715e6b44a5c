"""The model card: Markdown and a page, written from the run's own evidence. Begin with compose.py."""
