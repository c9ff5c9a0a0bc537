"""Greedy decoding that ends where the model expects the tag: mode stop of the endpoint, for one prompt.

It is the counterpart of `TagRows` (processor.py) for models without an engine: before each token, the first
one included, the text ends if P(tag) reaches the threshold.
"""

from __future__ import annotations

from safety_ray.decode.safebeam import Beam, Search, SearchSettings


class StopSearch(Search):
    """One greedy answer that ends at a P(tag) of `threshold`; driven like any `Search`.

    Its result is `finished` only if an end of text ended it.
    """

    def __init__(self, settings: SearchSettings, threshold: float) -> None:
        super().__init__(settings)
        self.threshold = threshold

    def candidates(self, beam: Beam) -> list[Beam]:
        """Return the most likely extension, or none if the text ends here."""
        if beam.expansion.p_tag < self.threshold:
            return super().candidates(beam)
        self.finished.append(beam)
        return []
