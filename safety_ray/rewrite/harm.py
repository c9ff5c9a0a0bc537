"""Find the type of harm and the sensitive topics of a text by its words.

The types are the paper's eight (section 2). Counting words is no judgement: the classifier judges. The type
selects phrases for the template engine and gives a language model a first guess.
"""

from __future__ import annotations

import re

from safety_ray.rewrite.template_engine.phrasebook import phrases, words

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
    """Return the harm type whose words are most frequent in `text`; the first of `HARMS` if none occurs."""
    tokens = [word.lower() for word in _WORD.findall(text)]
    return max(HARMS, key=lambda harm: sum(token in words(harm) for token in tokens))


def harm_name(harm: str) -> str:
    """Return the name of a harm type for prompts."""
    return phrases(harm)["name"][0]


def topics_of(text: str) -> list[str]:
    """Return the sensitive topics whose words occur in `text`, most frequent first."""
    tokens = [word.lower() for word in _WORD.findall(text)]
    topics = [name.removeprefix(_PREFIX) for name in phrases("sensitive") if name.startswith(_PREFIX)]
    counts = {
        topic: sum(token in words("sensitive", _PREFIX + topic) for token in tokens) for topic in topics
    }
    return sorted((topic for topic in topics if counts[topic]), key=lambda topic: -counts[topic])
