"""Registry of decoders: how a model answers the prompts of an evaluation.

All decoders run through the searches of safety_ray/decode, on the same prompts, so that their answers can be
compared prompt by prompt. None of them emits the tag. To add a decoder, add a function and an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safety_ray.core.errors import UserError, nearest
from safety_ray.decode.hf import run_searches
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.evaluate.settings import Decoding

BEAM, SAFEBEAM = "beam", "safebeam"


@dataclass(frozen=True, slots=True)
class Decoder:
    """One decoder; `make_search(decoding, seed)` returns the search for one prompt."""

    name: str
    summary: str
    make_search: Callable[[Decoding, int], Search]
    needs_tag: bool = False
    samples: bool = False
    """Whether the seed has an effect"""


def _greedy(decoding: Decoding, seed: int) -> Search:
    return _beam_search(decoding, beam_size=1, num_candidates=1, drop_share=0.0)


def _sample(decoding: Decoding, seed: int) -> Search:
    return SampleSearch(
        SampleSettings(
            tag_id=decoding.tag_id,
            eos_ids=decoding.eos_ids,
            max_new_tokens=decoding.max_new_tokens,
            num_candidates=decoding.top_k,
            drop_share=0.0,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=seed,
        )
    )


def _beam(decoding: Decoding, seed: int) -> Search:
    return _beam_search(decoding, drop_share=0.0)


def _safebeam(decoding: Decoding, seed: int) -> Search:
    return _beam_search(decoding)


def _beam_search(decoding: Decoding, **other: Any) -> Search:
    """Return a search with the values of `decoding`, of which `other` replaces some."""
    names = (
        "beam_size",
        "num_candidates",
        "drop_share",
        "drop_by",
        "drop_threshold",
        "early_stopping",
        "words",
    )
    values = {name: getattr(decoding, name) for name in names}
    return Search(
        SearchSettings(
            tag_id=decoding.tag_id,
            eos_ids=decoding.eos_ids,
            max_new_tokens=decoding.max_new_tokens,
            **{**values, **other},
        )
    )


DECODERS = {
    decoder.name: decoder
    for decoder in (
        Decoder("greedy", "the most likely token at each step", _greedy),
        Decoder(
            "sample",
            "sampling from the top_k most likely tokens with temperature and top_p; a seed per prompt",
            _sample,
            samples=True,
        ),
        Decoder(BEAM, "beam search", _beam),
        Decoder(SAFEBEAM, "Safe Beam Search", _safebeam, needs_tag=True),
    )
}


def check_names(names: list[str]) -> None:
    """Raise UserError for an unknown or repeated decoder."""
    for name in names:
        if name not in DECODERS:
            raise UserError(
                f"decoders: unknown decoder '{name}'; the nearest is '{nearest(name, list(DECODERS))}' "
                f"(choose from {', '.join(DECODERS)})."
            )
        if names.count(name) > 1:
            raise UserError(f"decoders: '{name}' is listed {names.count(name)} times.")


def choose(names: list[str], tag_id: int | None) -> list[str]:
    """Return the decoders to compare; by default both beam searches, or beam search without a tag.

    Raises UserError for a decoder that needs the tag if the model has none.
    """
    if not names:
        return [BEAM] if tag_id is None else [BEAM, SAFEBEAM]
    for name in names:
        if DECODERS[name].needs_tag and tag_id is None:
            usable = [decoder.name for decoder in DECODERS.values() if not decoder.needs_tag]
            raise UserError(
                f"decoders: '{name}' needs a model with the harmfulness tag, which this model lacks; "
                f"choose from {', '.join(usable)}."
            )
    return names


def answer(
    model: Any, tokenizer: Any, prompts: list[list[int]], decoder: str, decoding: Decoding, seeds: list[int]
) -> list[dict[str, Any]]:
    """Return one row per prompt, a list of token ids: the decoder's best answer.

    A row has `answer`, `tokens` (their number), `log_prob`, `finished` (whether an end of text ended it) and
    `p_tag`, P(tag) after each token, or None without a tag.
    """
    make_search = DECODERS[decoder].make_search
    searches = [make_search(decoding, seed) for seed in seeds]
    rows = []
    for best, *_ in run_searches(model, prompts, searches):
        rows.append(
            {
                "answer": tokenizer.decode(list(best.token_ids), skip_special_tokens=True),
                "tokens": len(best.token_ids),
                "log_prob": best.log_prob,
                "finished": best.finished,
                "p_tag": None if decoding.tag_id is None else [float(f"{p:.6g}") for p in best.p_tag],
            }
        )
    return rows
