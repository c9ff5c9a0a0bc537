"""Generate documents from seeds: fill slots and sometimes drop a sentence, by seed and number."""

from __future__ import annotations

import random
import re

from safety_ray.core.records import stable_hash
from safety_ray.corpus.seeds import SLOT, Seed

_SENTENCE = re.compile(r"(?<=[.!?])[ ]+(?=[\"'A-Z0-9])")
_DROP_RATE = 0.3
"""share of documents without one of their middle sentences"""


def expand(seed: Seed, number: int, corpus_seed: int) -> str:
    """Return the document `number` of a seed; number 0 has the first choice of each slot and all
    sentences.
    """
    if number == 0:
        return SLOT.sub(lambda m: m.group(1).split("|")[0], seed.text)
    rng = random.Random(stable_hash(corpus_seed, seed.id, number))
    text = SLOT.sub(lambda m: rng.choice(m.group(1).split("|")), seed.text)
    return _drop_sentence(text, rng) if rng.random() < _DROP_RATE else text


def _drop_sentence(text: str, rng: random.Random) -> str:
    paragraphs = text.split("\n")
    # Only long paragraphs lose a sentence; dialogues and headings depend on their order.
    long = [i for i, p in enumerate(paragraphs) if len(_SENTENCE.split(p)) >= 4]
    if not long:
        return text
    index = rng.choice(long)
    sentences = _SENTENCE.split(paragraphs[index])
    del sentences[rng.randrange(1, len(sentences) - 1)]
    paragraphs[index] = " ".join(sentences)
    return "\n".join(paragraphs)
