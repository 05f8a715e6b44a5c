"""Pages for people: the first page with its form and card, and the status page with its charts."""
