"""The first page: form, state and model card."""
