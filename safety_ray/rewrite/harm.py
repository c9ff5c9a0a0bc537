"""What kind of harm a text carries, told by its words: the paper's eight (section 2), and topics.

Counting words is no judgement: the classifier judges. The kind picks sentences for the template
engine and gives a language model a first guess.
"""

from __future__ import annotations

import re

from safety_ray.rewrite.phrasebook import book, words

HARMS = (
    "harassment",
    "malware",
    "physical",
    "economic",
    "fraud",
    "disinformation",
    "sexual",
    "privacy",
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_PREFIX = "words "


def harm_of(text: str) -> str:
    """The harm type whose words are most frequent in `text`; the first of `HARMS` where none occurs."""
    found = [word.lower() for word in _WORD.findall(text)]
    return max(HARMS, key=lambda harm: sum(word in words(harm) for word in found))


def harm_name(harm: str) -> str:
    """The harm type in words."""
    return book(harm)["name"][0]


def topics_of(text: str) -> list[str]:
    """The sensitive topics whose words occur in `text`, the most frequent first; often none."""
    found = [word.lower() for word in _WORD.findall(text)]
    topics = [name.removeprefix(_PREFIX) for name in book("sensitive") if name.startswith(_PREFIX)]
    counts = {topic: sum(word in words("sensitive", _PREFIX + topic) for word in found) for topic in topics}
    return sorted((t for t in topics if counts[t]), key=lambda t: -counts[t])
