"""The project's own corpus: labelled seed documents, and a seeded generator that expands them."""
