"""Searches in vLLM's engine core: the scheduler class that runs them, and how a request describes one.

    LLM(..., scheduler_cls=SCHEDULER, worker_extension_cls=BLOCK_COPIES)   # the latter on CPUs only

A request with the extra argument SEARCH_ARG runs a whole search (vllm_search.py sends such requests). The
search advances in the scheduler as soon as the last row of a step has its output, without a round trip to the
frontend.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from safety_ray.compat.vllm_forced_tokens import FORCED
from safety_ray.compat.vllm_rows import Branch, Tree
from safety_ray.compat.vllm_token_values import TotalsScheduler
from safety_ray.core.errors import UserError
from safety_ray.decode.p_tag_totals import PTagTotals
from safety_ray.decode.processor import LAST, report_column
from safety_ray.decode.safebeam import Expansion, Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.words import WordStarts

if TYPE_CHECKING:
    from vllm.v1.request import Request

SCHEDULER = "safety_ray.decode.vllm_scheduler.SearchScheduler"
"""Value of vLLM's engine argument `scheduler_cls`."""
BLOCK_COPIES = "safety_ray.compat.vllm_cpu_worker.CPUWorker"
"""Value of vLLM's engine argument `worker_extension_cls` on a CPU, where vLLM copies blocks slowly."""
SEARCH_ARG = "search"
"""Name of the extra sampling argument with the description of a search."""
SEARCHES: dict[str, tuple[type[SearchSettings], type[Search]]] = {
    "beam": (SearchSettings, Search),
    "sample": (SampleSettings, SampleSearch),
}
"""Searches that the engine core can run, with their settings, by their names in a request."""


def describe_search(search: Search) -> dict[str, Any]:
    """Return the value of SEARCH_ARG for a search that has not started."""
    for name, (settings_class, search_class) in SEARCHES.items():
        if type(search) is search_class and type(search.settings) is settings_class:
            settings = {field.name: getattr(search.settings, field.name) for field in fields(settings_class)}
            # The table of words has a byte for each token of the vocabulary: sent only if it is used.
            words = search.settings.words if search.settings.drop_by == "word" else None
            settings |= {"eos_ids": sorted(settings["eos_ids"]), "words": words.flags if words else b""}
            return {"name": name, "settings": settings}
    raise UserError(
        f"{type(search).__name__} is not in SEARCHES, safety_ray/decode/vllm_scheduler.py; add it."
    )


def make_search(values: Any) -> Search:
    """Return the search that `describe_search` has described. Raises UserError for other values."""
    if not isinstance(values, Mapping) or values.keys() != {"name", "settings"}:
        raise UserError(f"{SEARCH_ARG} must be an object with the keys name and settings.")
    name, settings = values["name"], values["settings"]
    if not isinstance(name, str) or name not in SEARCHES:
        raise UserError(f"{SEARCH_ARG}: unknown search {name!r}; choose from {', '.join(SEARCHES)}.")
    settings_class, search_class = SEARCHES[name]
    try:
        words = WordStarts(bytes(settings["words"])) if settings["words"] else None
        own_types = {"eos_ids": frozenset(settings["eos_ids"]), "words": words}
        return search_class(settings_class(**{**settings, **own_types}))
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{SEARCH_ARG}: invalid settings of the search {name!r}: {error}.") from error


def check_length(
    settings: SearchSettings, num_prompt_tokens: int, max_model_len: int, where: str = "the prompt"
) -> None:
    """Raise UserError if an engine has no room for a prompt, the longest answer and the last look-ahead."""
    room = max_model_len - num_prompt_tokens - 1
    if room < 1:
        raise UserError(
            f"{where} has {num_prompt_tokens} tokens and must have at most {max_model_len - 2}: the engine's "
            f"max_model_len is {max_model_len}."
        )
    if settings.max_new_tokens > room:
        raise UserError(
            f"{where} has {num_prompt_tokens} tokens, so max_new_tokens={settings.max_new_tokens} must be at "
            f"most {room}: the engine's max_model_len is {max_model_len}."
        )


def expansion(token_ids: Sequence[int], log_probs: Sequence[float], settings: SearchSettings) -> Expansion:
    """Return the expansion in one row of the engine's log-probabilities, of which the first is the tag's.

    At equal probability the smaller token id comes first.
    """
    if token_ids[0] != settings.tag_id:
        raise ValueError(f"the engine sampled token {token_ids[0]} in place of the tag {settings.tag_id}.")
    pairs = sorted(
        (-value, token)
        for token, value in zip(token_ids[1:], log_probs[1:], strict=True)
        if token != settings.tag_id
    )[: settings.num_candidates]
    p_tag = min(math.exp(log_probs[0]), 1.0)
    return Expansion([token for _, token in pairs], [-value for value, _ in pairs], p_tag)


class SearchTree:
    """A search as a tree of continuations."""

    def __init__(self, search: Search) -> None:
        self.search = search

    def branches(self) -> list[Branch]:
        return [
            Branch(beam.token_ids, None if beam.parent is None else beam.parent.slot)
            for beam in self.search.pending
        ]

    def advance(self, token_ids: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> None:
        settings = self.search.settings
        self.search.advance(
            [expansion(ids, values, settings) for ids, values in zip(token_ids, log_probs, strict=True)]
        )


class SearchScheduler(TotalsScheduler):
    """vLLM's scheduler with searches, and with the totals of P(tag) of other requests."""

    def open_totals(self, request: Request) -> PTagTotals | None:
        params = request.sampling_params
        reports = params is not None and report_column(params.extra_args, params.logprobs) == LAST
        appended = not self.vllm_config.use_v2_model_runner  # by the sampler of V1
        return PTagTotals() if reports and appended else None

    def open_tree(self, request: Request) -> Tree | None:
        params = request.sampling_params
        extra = (params.extra_args or {}) if params is not None else {}
        if params is None or extra.get(SEARCH_ARG) is None:
            return None
        search = make_search(extra[SEARCH_ARG])
        if request.prompt_token_ids is None or request.mm_features:
            raise UserError("a search needs a prompt of token ids only.")
        settings = search.settings
        if params.logit_bias != {settings.tag_id: FORCED} or params.logprobs != settings.num_candidates + 1:
            raise UserError("the sampling parameters do not belong to the search; use search_params.")
        check_length(settings, request.num_prompt_tokens, self.max_model_len)
        # The worker receives the parameters with each row, and does not need the description.
        request.sampling_params = row_params = copy.copy(params)
        row_params.extra_args = {key: value for key, value in extra.items() if key != SEARCH_ARG}
        return SearchTree(search)
