"""Evaluation of a model: answers to prompts, judged; P(tag) of documents; perplexity."""
