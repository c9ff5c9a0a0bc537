"""A small tokenizer for all tests of packing."""

from __future__ import annotations

import random
from typing import Any

import hypothesis
import pytest
from small_datasets import HOSTILE, WORDS

from safety_ray.core.tag import TAG
from safety_ray.pack import vocabulary

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A small byte-level BPE, trained trained as the pack job trains it."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=50)) + rng.choice(HOSTILE) for _ in range(200)]
    return vocabulary.train([texts], 400, TAG, 64)
