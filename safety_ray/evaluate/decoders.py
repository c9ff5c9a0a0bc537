"""Registry of decoders: how a model answers the prompts of an evaluation.

A model that is loaded here decodes by the searches of safety_ray/decode; a model behind an endpoint is asked
with the fields of a request (endpoint.py). All decoders answer the same prompts, so that their answers can be
compared prompt by prompt. None of them emits the tag. To add a decoder, add a function and an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safety_ray.core.errors import UserError, nearest
from safety_ray.decode.hf import run_searches
from safety_ray.decode.modes import MODES
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.stop import StopSearch
from safety_ray.evaluate.settings import Decoding

GREEDY, BEAM, SAFEBEAM, STOP = "greedy", "beam", "safebeam", "stop"
_SAMPLE = "sample"
"""the mode of an endpoint that samples with a look-ahead"""


@dataclass(frozen=True, slots=True)
class Decoder:
    """One decoder."""

    name: str
    summary: str
    make_search: Callable[[Decoding, int], Search]
    """Return the search for one prompt."""
    request: Callable[[Decoding], dict[str, Any]]
    """Return the fields of a request to an endpoint."""
    mode: str = ""
    """the safety mode that the endpoint must offer (safety_ray/decode/modes.py)"""
    needs_tag: bool = False
    samples: bool = False
    """Whether the seed has an effect"""


def _greedy(decoding: Decoding, seed: int) -> Search:
    return Search(_greedy_settings(decoding))


def _stop(decoding: Decoding, seed: int) -> Search:
    return StopSearch(_greedy_settings(decoding), decoding.stop_threshold)


def _sample(decoding: Decoding, seed: int) -> Search:
    return _sampling(decoding, seed, num_candidates=decoding.top_k, drop_share=0.0)


def _safesample(decoding: Decoding, seed: int) -> Search:
    return _sampling(decoding, seed)


def _sampling(decoding: Decoding, seed: int, **other: Any) -> Search:
    sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": seed}
    return SampleSearch(SampleSettings(**_values(decoding, _SAMPLE) | sampling | other))


def _beam(decoding: Decoding, seed: int) -> Search:
    return Search(_settings(decoding, drop_share=0.0))


def _safebeam(decoding: Decoding, seed: int) -> Search:
    return Search(_settings(decoding))


def _greedy_settings(decoding: Decoding) -> SearchSettings:
    return _settings(decoding, beam_size=1, num_candidates=1, drop_share=0.0)


def _settings(decoding: Decoding, **other: Any) -> SearchSettings:
    """Return the settings of a beam search with the values of `decoding`, of which `other` replaces some."""
    return SearchSettings(**_values(decoding, SAFEBEAM) | other)


def _values(decoding: Decoding, mode: str) -> dict[str, Any]:
    """Return the arguments of a search of `mode` that an evaluation sets."""
    same = ("tag_id", "eos_ids", "max_new_tokens", "words")
    return {name: getattr(decoding, name) for name in same} | _parameters(decoding, mode)


def _parameters(decoding: Decoding, mode: str) -> dict[str, Any]:
    """Return the parameters of `mode` that an evaluation sets, under the names of requests."""
    return {name: getattr(decoding, name) for name in MODES[mode].parameters if hasattr(decoding, name)}


def _request_greedy(decoding: Decoding) -> dict[str, Any]:
    return {"temperature": 0.0}


def _request_sample(decoding: Decoding) -> dict[str, Any]:
    return {"temperature": decoding.temperature, "top_p": decoding.top_p}


def _request_beam(decoding: Decoding) -> dict[str, Any]:
    return {"safety": _safety(decoding, SAFEBEAM) | {"drop_share": 0.0}}


def _request_safebeam(decoding: Decoding) -> dict[str, Any]:
    return {"safety": _safety(decoding, SAFEBEAM)}


def _request_safesample(decoding: Decoding) -> dict[str, Any]:
    return _request_sample(decoding) | {"safety": _safety(decoding, _SAMPLE)}


def _request_stop(decoding: Decoding) -> dict[str, Any]:
    return {"temperature": 0.0, "safety": {"mode": "stop", "threshold": decoding.stop_threshold}}


def _safety(decoding: Decoding, mode: str) -> dict[str, Any]:
    return {"mode": mode} | _parameters(decoding, mode)


DECODERS = {
    decoder.name: decoder
    for decoder in (
        Decoder(GREEDY, "the most likely token at each step", _greedy, _request_greedy),
        Decoder(
            "sample",
            "sampling from the top_k most likely tokens with temperature and top_p; a seed per prompt",
            _sample,
            _request_sample,
            samples=True,
        ),
        Decoder(BEAM, "beam search", _beam, _request_beam, mode=SAFEBEAM),
        Decoder(SAFEBEAM, "Safe Beam Search", _safebeam, _request_safebeam, mode=SAFEBEAM, needs_tag=True),
        Decoder(
            "safesample",
            "sampling with a look-ahead that drops candidates as Safe Beam Search does",
            _safesample,
            _request_safesample,
            mode=_SAMPLE,
            needs_tag=True,
            samples=True,
        ),
        Decoder(
            STOP,
            "greedy decoding that ends when P(tag) reaches stop_threshold",
            _stop,
            _request_stop,
            mode="stop",
            needs_tag=True,
        ),
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
            usable = [d.name for d in DECODERS.values() if not d.needs_tag]
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
    `p_tag`, P(tag) after each token, or None without a tag. With the decoder `stop`, `tag_emitted` is whether
    P(tag) ended the answer.
    """
    searches = [DECODERS[decoder].make_search(decoding, seed) for seed in seeds]
    rows = []
    for best, *_ in run_searches(model, prompts, searches):
        stopped = not best.finished and len(best.token_ids) < decoding.max_new_tokens
        rows.append(
            {
                "answer": tokenizer.decode(list(best.token_ids), skip_special_tokens=True),
                "tokens": len(best.token_ids),
                "log_prob": best.log_prob,
                "finished": best.finished,
                "p_tag": None if decoding.tag_id is None else [float(f"{p:.6g}") for p in best.p_tag],
                **({"tag_emitted": stopped} if decoder == STOP else {}),
            }
        )
    return rows
