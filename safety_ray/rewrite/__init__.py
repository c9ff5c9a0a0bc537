"""Rewrite unsafe documents: rephrased texts, refusals and moral education."""
