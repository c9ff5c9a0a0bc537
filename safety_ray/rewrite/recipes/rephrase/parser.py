"""Read the reply to a rephrase prompt."""

from __future__ import annotations

from safety_ray.rewrite.reply import clean, require_words

_MIN_WORDS = 20


def parse_rephrased(reply: str) -> str:
    """Return the rephrased text. Raises ValueError if the engine declined or wrote fewer than 20 words."""
    return require_words(clean(reply), _MIN_WORDS)
