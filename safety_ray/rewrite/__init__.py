"""Harmful documents become safe ones: rephrased, turned into refusals, retold as moral education."""
