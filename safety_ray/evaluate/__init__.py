"""Evaluation of a model with the tag: P(tag) of texts, unsafe continuations, perplexity."""
