"""Read the reply to a moralize prompt: a web page with headings, in the third person."""

from __future__ import annotations

import re

from safety_ray.rewrite.dialogue import TURN
from safety_ray.rewrite.reply import clean, require_words

_MIN_WORDS, _MIN_HEADINGS = 40, 2
_HEADING = re.compile(r"^#{1,4} \S", re.M)
_QUOTED = re.compile(r'"[^"\n]*"|“[^”\n]*”')
_FIRST_PERSON = re.compile(r"\b(I|I'm|I'll|I've|I'd)\b")


def parse_page(reply: str) -> str:
    """Return the page. Raises ValueError unless it has headings, no turns, third person and 40 words."""
    text = clean(reply)
    if len(_HEADING.findall(text)) < _MIN_HEADINGS:
        raise ValueError("the page has no headings")
    if TURN.search(text):
        raise ValueError("the page repeats the dialogue instead of retelling it")
    if _FIRST_PERSON.search(_QUOTED.sub("", text)):
        raise ValueError("the page is not in the third person")
    return require_words(text, _MIN_WORDS)
