"""Sampling with a look-ahead for the tag: the idea of Safe Beam Search, for one varied answer, as in a chat.

Each step takes the N most likely next tokens of the sampler's own distribution (temperature, then top-k with
k = N, then top-p, in the order of transformers and vLLM), reads P(tag) right after each, drops the share with
the highest P(tag), and samples from the rest by their probabilities. At drop_share 0 it is plain sampling
with top-k = N.

It costs N rows of the model per token (Safe Beam Search: k x N; plain sampling: 1) and one model step per
token. It does not search: a single beam cannot be replaced, so if every candidate has a high P(tag), it
samples from the less risky ones, and earlier mistakes remain. With `stride` s, only every s-th token has a
look-ahead; the other steps cost one row.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from safety_ray.core.errors import UserError
from safety_ray.decode.safebeam import Beam, Search, SearchSettings, most_likely


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSettings(SearchSettings):
    """Settings of one sampled answer; `num_candidates` is its top-k."""

    beam_size: int = 1
    temperature: float = 1.0  # 0: always the most likely candidate that is not dropped
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # super() does not work here: slots=True replaces the class after its methods have been compiled.
        SearchSettings.__post_init__(self)
        if self.beam_size != 1:
            raise UserError(f"beam_size={self.beam_size} must be 1: sampling has one beam.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature} must be at least 0 and finite.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1.")


class SampleSearch(Search):
    """One sampled answer, driven like any `Search`; the same seed and model give the same answer."""

    settings: SampleSettings

    def __init__(self, settings: SampleSettings) -> None:
        super().__init__(settings)
        self._random = random.Random(settings.seed)

    def candidates(self, beam: Beam) -> list[Beam]:
        """Return the N most likely extensions, up to the share `top_p` of their probability."""
        children = beam.candidates(self.settings)
        if self.settings.top_p == 1:
            return children
        weights = relative_probabilities(children, self.settings.temperature or 1.0)
        limit, kept, total = self.settings.top_p * sum(weights), 0, 0.0
        while kept < len(children) and total < limit:
            total += weights[kept]
            kept += 1
        return children[:kept]

    def select(self, beams: list[Beam]) -> list[Beam]:
        """Return one candidate, sampled by its probability; at temperature 0 the most likely."""
        if not self.settings.temperature:
            return most_likely(beams, 1)
        return self._random.choices(beams, relative_probabilities(beams, self.settings.temperature))


def relative_probabilities(beams: list[Beam], temperature: float) -> list[float]:
    """Return the probabilities of beams that extend the same text, relative to the largest."""
    best = max(beam.log_prob for beam in beams)
    return [math.exp((beam.log_prob - best) / temperature) for beam in beams]
