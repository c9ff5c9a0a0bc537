"""Split prose without labels into chunks of different lengths, from one sentence to a page.

Without such texts, a classifier trained on sets of short aggressive texts uses a text's length or sober
style as a signal. The label of a chunk is a range: the lowest level is 0, the highest one depends on the
kind of prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from safety_ray.classifier.datasets.label_set import Row
from safety_ray.core.records import stable_hash

SENTENCES = (1, 2, 3, 5, 8, 13)
"""possible numbers of sentences in a chunk"""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"“A-Z])")


def chunks(name: str, texts: list[str], label_max: int) -> Iterator[Row]:
    """Split each text into chunks; their lengths are sampled by a hash of `name` and position."""
    for number, text in enumerate(texts):
        sentences = _SENTENCE_END.split(" ".join(text.split()))
        start = 0
        while start < len(sentences):
            size = SENTENCES[stable_hash(name, number, start) % len(SENTENCES)]
            yield {
                "id": f"{name}/{number:05}/{start:04}",
                "text": " ".join(sentences[start : start + size]),
                "label": 0,
                "label_max": label_max,
                "family": f"{name}/{number:05}",
            }
            start += size
