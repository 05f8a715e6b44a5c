"""The endpoints; `open_inference` has a room of its own."""
