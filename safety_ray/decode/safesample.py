"""Sampling that looks ahead for the tag: Safe Beam Search's idea for chat, where one lively answer is wanted.

Each step takes the N most likely next tokens of the sampler's own distribution (temperature, then
top-k with k = N, then top-p, as transformers and vLLM apply them), asks for P(tag) right after each,
drops the riskier share, and draws among the rest by their probabilities. At share 0 it is plain
sampling with top-k = N.

It costs N rows of the model per token (Safe Beam Search: k x N; plain sampling: 1), and as there one
step of the model per token. It gives up the search: one beam cannot go back, so where every candidate
is risky it takes one of the less risky ones, and what has gone wrong earlier stays. With `stride` s
only every s-th token is drawn after a look-ahead; the steps between cost one row.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from safety_ray.core.errors import UserError
from safety_ray.decode.safebeam import Beam, Search, SearchSettings, most_likely


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSettings(SearchSettings):
    """What a sampler is told; `num_candidates` is its top-k."""

    beam_size: int = 1
    temperature: float = 1.0  # 0: the most likely of what is not dropped
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # Named in full: a class with slots is made anew, and a bare super() would mean the old one.
        SearchSettings.__post_init__(self)
        if self.beam_size != 1:
            raise UserError(f"beam_size={self.beam_size}: a sampler has one beam.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature} must be at least 0.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1.")


class SampleSearch(Search):
    """One answer being sampled; driven as a `Search` is. The same seed and model give the same answer."""

    settings: SampleSettings

    def __init__(self, settings: SampleSettings) -> None:
        super().__init__(settings)
        self._random = random.Random(settings.seed)

    def candidates(self, beam: Beam) -> list[Beam]:
        """The N most likely tokens, without those beyond the share `top_p` of their probability."""
        found = beam.candidates(self.settings)
        if self.settings.top_p == 1:
            return found
        weights = weights_of(found, self.settings.temperature or 1.0)
        enough, kept, reached = self.settings.top_p * sum(weights), 0, 0.0
        while kept < len(found) and reached < enough:
            reached += weights[kept]
            kept += 1
        return found[:kept]

    def select(self, beams: list[Beam]) -> list[Beam]:
        """One of them, drawn by its probability; at temperature 0 the most likely."""
        if not self.settings.temperature:
            return most_likely(beams, 1)
        return self._random.choices(beams, weights_of(beams, self.settings.temperature))


def weights_of(beams: list[Beam], temperature: float) -> list[float]:
    """Probabilities, up to a factor, of continuations of one text."""
    best = max(beam.log_prob for beam in beams)
    return [math.exp((beam.log_prob - best) / temperature) for beam in beams]
