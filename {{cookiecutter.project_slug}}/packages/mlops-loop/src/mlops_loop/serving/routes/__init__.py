"""The endpoints, by subject; `open_inference` and `pages` have their own rooms."""
