"""Many documents from few seeds: slots are filled and a sentence may be left out, by seed and number."""

from __future__ import annotations

import random
import re

from safety_ray.core.records import stable_hash
from safety_ray.corpus.seeds import SLOT, Seed

_SENTENCE = re.compile(r"(?<=[.!?])[ ]+(?=[\"'A-Z0-9])")
_LEAVE_OUT = 0.3
"""how often a document loses one of its middle sentences"""


def expand(seed: Seed, number: int, corpus_seed: int) -> str:
    """The `number`-th document of a seed; number 0 takes every slot's first choice and all sentences."""
    if number == 0:
        return SLOT.sub(lambda m: m.group(1).split("|")[0], seed.text)
    rng = random.Random(stable_hash(corpus_seed, seed.id, number))
    text = SLOT.sub(lambda m: rng.choice(m.group(1).split("|")), seed.text)
    return _leave_out_one(text, rng) if rng.random() < _LEAVE_OUT else text


def _leave_out_one(text: str, rng: random.Random) -> str:
    paragraphs = text.split("\n")
    # Dialogues and headings depend on their order: only running prose loses a sentence.
    long = [i for i, p in enumerate(paragraphs) if len(_SENTENCE.split(p)) >= 4]
    if not long:
        return text
    at = rng.choice(long)
    sentences = _SENTENCE.split(paragraphs[at])
    del sentences[rng.randrange(1, len(sentences) - 1)]
    paragraphs[at] = " ".join(sentences)
    return "\n".join(paragraphs)
