"""Registry of decoding modes: what each mode does, its request parameters, and the engine path that runs it.

A request chooses a mode with the body field `safety`, for example {"mode": "safebeam", "beam_size": 4}.
Request validation, `--help`, the playground and GET /v1/safety read this file; docs/serve.md is tested
against it. docs/how-to/add-a-decoding-mode.md describes how to add a mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.variants import DROP_BY, EARLY_STOPPING
from safety_ray.decode.words import WordStarts


@dataclass(frozen=True, slots=True)
class Parameter:
    """A request parameter of one or more modes; the type of `default` is the type of its values."""

    name: str
    default: int | float | bool | str
    summary: str


PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter("threshold", 0.03, "end the text when P(tag) reaches this value"),
        Parameter(
            "prompt_threshold", 1.0, "refuse a prompt after which P(tag) reaches this value; 1 refuses none"
        ),
        Parameter("beam_size", 4, "number of beams (k)"),
        Parameter("num_candidates", 4, "number of candidates of each beam (N)"),
        Parameter("drop_share", 0.5, "share of the candidates dropped in each step, highest P(tag) first"),
        Parameter("stride", 1, "look ahead at every s-th token only; 1 is the paper's algorithm"),
        Parameter("drop_by", "token", f"what candidates are dropped by: {', '.join(DROP_BY)}; see below"),
        Parameter(
            "drop_threshold", 0.0, "drop only candidates for which drop_by reaches this value; 0: the share"
        ),
        Parameter("early_stopping", "always", f"when a search ends: {', '.join(EARLY_STOPPING)}; see below"),
        Parameter("length_penalty", 0.0, "rank beams by log-probability / length ** length_penalty"),
        Parameter("explain", False, "report the dropped candidates of each step"),
    )
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one answer; modes that do not sample ignore them."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DecodingMode:
    """One decoding mode.

    Without `make_search`, the engine decodes and the logits processor (processor.py) applies the mode. With
    it, `make_search(settings, sampling)` returns the search that replaces the engine's decoding; `settings`
    are the arguments of SearchSettings.
    """

    name: str
    summary: str
    parameters: tuple[str, ...]
    samples: bool
    """Whether temperature, top_p and seed have an effect. If not, n answers are the n best beams."""
    make_search: Callable[[Mapping[str, Any], Sampling], Search] | None = None

    @property
    def searches(self) -> bool:
        """Whether a search replaces the engine's own decoding."""
        return self.make_search is not None

    def rows(self, values: Mapping[str, Any]) -> int:
        """Return the largest number of engine rows that one answer takes with these parameter values."""
        rows = 1
        for name in ("beam_size", "num_candidates"):
            if name in self.parameters:
                rows *= int(values[name])
        return rows

    def search(
        self,
        values: Mapping[str, Any],
        sampling: Sampling,
        *,
        tag_id: int,
        eos_ids: Any,
        max_new_tokens: int,
        words: WordStarts | None = None,
    ) -> Search:
        """Return a new search with these parameter values. Raises UserError for values out of range."""
        if self.make_search is None:
            raise ValueError(f"mode {self.name} does not search")
        names = {field.name for field in fields(SearchSettings)}.intersection(self.parameters)
        settings = {"tag_id": tag_id, "eos_ids": eos_ids, "max_new_tokens": max_new_tokens, "words": words}
        return self.make_search({**settings, **{name: values[name] for name in names}}, sampling)


def _safe_beam_search(settings: Mapping[str, Any], sampling: Sampling) -> Search:
    return Search(SearchSettings(**settings))


def _safe_sampling(settings: Mapping[str, Any], sampling: Sampling) -> Search:
    return SampleSearch(
        SampleSettings(**settings, temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)
    )


MODES = {
    mode.name: mode
    for mode in (
        DecodingMode("off", "Decode without any restriction.", ("explain",), samples=True),
        DecodingMode("mask", "Never sample the tag.", ("prompt_threshold", "explain"), samples=True),
        DecodingMode(
            "stop",
            "Never sample the tag, and end the text when P(tag) reaches the threshold.",
            ("threshold", "prompt_threshold", "explain"),
            samples=True,
        ),
        DecodingMode(
            "safebeam",
            "Safe Beam Search: look one token ahead and drop the candidates with the highest P(tag).",
            (
                "beam_size",
                "num_candidates",
                "drop_share",
                "stride",
                "drop_by",
                "drop_threshold",
                "early_stopping",
                "length_penalty",
                "prompt_threshold",
                "explain",
            ),
            samples=False,
            make_search=_safe_beam_search,
        ),
        DecodingMode(
            "sample",
            "Sample with a look-ahead: of the most likely tokens, drop those with the highest P(tag).",
            (
                "num_candidates",
                "drop_share",
                "stride",
                "drop_by",
                "drop_threshold",
                "prompt_threshold",
                "explain",
            ),
            samples=True,
            make_search=_safe_sampling,
        ),
    )
}

PROCESSOR_MODES = tuple(mode.name for mode in MODES.values() if not mode.searches)
"""Modes of the logits processor."""


def describe_modes() -> dict[str, dict[str, Any]]:
    """Return the registry as JSON-ready values, as clients of an endpoint receive it."""
    return {
        mode.name: {
            "summary": mode.summary,
            "parameters": list(mode.parameters),
            "samples": mode.samples,
            "searches": mode.searches,
        }
        for mode in MODES.values()
    }
