"""The chat site: its page, its routes, and answers as server jobs."""
