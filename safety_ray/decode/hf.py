"""Safe Beam Search on a transformers model: one forward pass generates one output token.

All candidates of all searches are evaluated in one batch. Where the model allows it, each search is a tree of
tokens whose keys and values stay where they are (tree.py); otherwise each candidate is a row of the batch
with keys and values of its own (hf_rows.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch

from safety_ray.core.errors import UserError
from safety_ray.decode.hf_rows import Rows
from safety_ray.decode.safebeam import Expansion, Hypothesis, Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.tree import Tree, can_be_captured, fits
from safety_ray.decode.words import WordStarts


def safe_beam_search(
    model: Any,
    prompt_ids: Sequence[int],
    *,
    tag_id: int,
    eos_id: int | Collection[int] | None,
    beam_size: int = 4,
    num_candidates: int = 4,
    max_new_tokens: int = 64,
    drop_share: float = 0.5,
    length_penalty: float = 0.0,
    stride: int = 1,
    drop_by: str = "token",
    drop_threshold: float = 0.0,
    early_stopping: str = "always",
    words: WordStarts | None = None,
    cuda_graph: bool = False,
) -> list[Hypothesis]:
    """Return the `beam_size` best continuations of a prompt found by Safe Beam Search (paper, section 4).

    Args:
        model: a causal language model of transformers in evaluation mode, trained with the harmfulness tag.
        prompt_ids: token ids of the prompt, at least one.
        tag_id: id of the harmfulness tag (`safety_ray.tag_id`).
        eos_id: the token that ends a text, several of them, or None.
        beam_size: number of beams (k).
        num_candidates: candidates of each beam (N).
        max_new_tokens: maximum number of generated tokens.
        drop_share: share of the candidates that is dropped in each step; 0 is plain beam search.
        length_penalty: rank results by log-probability / length ** length_penalty.
        stride: look ahead at every s-th token only.
        drop_by: what candidates are dropped by (`variants.DROP_BY`).
        drop_threshold: of the share, drop only candidates for which `drop_by` reaches this value.
        early_stopping: when the search ends (`variants.EARLY_STOPPING`).
        words: tokens that begin a word (`words.word_starts(tokenizer)`), for drop_by "word".
        cuda_graph: capture the forward pass of a step as a CUDA graph (tree_step.py). Not yet run on a GPU.

    Returns:
        Hypotheses with the generated tokens, best first.

    Raises:
        UserError: an argument is out of range or does not fit the model.
    """
    return safe_beam_search_batch(
        model,
        [prompt_ids],
        tag_id=tag_id,
        eos_id=eos_id,
        beam_size=beam_size,
        num_candidates=num_candidates,
        max_new_tokens=max_new_tokens,
        drop_share=drop_share,
        length_penalty=length_penalty,
        stride=stride,
        drop_by=drop_by,
        drop_threshold=drop_threshold,
        early_stopping=early_stopping,
        words=words,
        cuda_graph=cuda_graph,
    )[0]


def safe_beam_search_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    tag_id: int,
    eos_id: int | Collection[int] | None,
    cuda_graph: bool = False,
    **settings: Any,
) -> list[list[Hypothesis]]:
    """Return `safe_beam_search` of each prompt with the same `settings`, computed in one batch.

    The results do not depend on the other prompts. A batch has up to len(prompts) x beam_size x
    num_candidates candidates. Each search holds keys and values of the longest prompt and of its beams; where
    tree.py does not fit the model, each candidate does. Choose the number of prompts by memory.
    """
    search_settings = SearchSettings(tag_id=tag_id, eos_ids=_eos_ids(eos_id), **settings)
    searches = [Search(search_settings) for _ in prompts]
    return run_searches(model, prompts, searches, cuda_graph=cuda_graph)


def safe_sample(
    model: Any,
    prompt_ids: Sequence[int],
    *,
    tag_id: int,
    eos_id: int | Collection[int] | None,
    num_candidates: int = 4,
    max_new_tokens: int = 64,
    drop_share: float = 0.5,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    stride: int = 1,
    drop_by: str = "token",
    drop_threshold: float = 0.0,
    words: WordStarts | None = None,
) -> Hypothesis:
    """Return one continuation of a prompt, sampled with a look-ahead for the tag (safesample.py).

    Args:
        model: a causal language model of transformers in evaluation mode, trained with the harmfulness tag.
        prompt_ids: token ids of the prompt, at least one.
        tag_id: id of the harmfulness tag (`safety_ray.tag_id`).
        eos_id: the token that ends a text, several of them, or None.
        num_candidates: most likely tokens that are considered (top-k).
        max_new_tokens: maximum number of generated tokens.
        drop_share: share of the candidates that is dropped in each step; 0 is plain top-k sampling.
        temperature: 0 takes the most likely candidate that is not dropped.
        top_p: consider only the most likely candidates up to this share of their probability.
        seed: the same seed and model give the same answer.
        stride: look ahead at every s-th token only.
        drop_by: what candidates are dropped by (`variants.DROP_BY`).
        drop_threshold: of the share, drop only candidates for which `drop_by` reaches this value.
        words: tokens that begin a word (`words.word_starts(tokenizer)`), for drop_by "word".

    Raises:
        UserError: an argument is out of range or does not fit the model.
    """
    settings = SampleSettings(
        tag_id=tag_id,
        eos_ids=_eos_ids(eos_id),
        num_candidates=num_candidates,
        max_new_tokens=max_new_tokens,
        drop_share=drop_share,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stride=stride,
        drop_by=drop_by,
        drop_threshold=drop_threshold,
        words=words,
    )
    return run_searches(model, [prompt_ids], [SampleSearch(settings)])[0][0]


@torch.inference_mode()
def run_searches(
    model: Any, prompts: Sequence[Sequence[int]], searches: Sequence[Search], *, cuda_graph: bool = False
) -> list[list[Hypothesis]]:
    """Run the i-th search on the i-th prompt, all in one batch, and return their results.

    All searches must have the same `tag_id`. Raises UserError if a prompt does not fit the model, or if the
    model cannot be searched with `cuda_graph`.
    """
    if not prompts:
        return []
    for index, (prompt, search) in enumerate(zip(prompts, searches, strict=True)):
        _check(model, prompt, search.settings, "the prompt" if len(prompts) == 1 else f"prompt {index}")
    rows = Rows(model, prompts)
    if cuda_graph and not can_be_captured(rows):
        raise UserError(
            "cuda_graph=True: not possible for this model (safety_ray/decode/tree.py); use False."
        )
    queries = max(s.settings.beam_size * s.settings.num_candidates for s in searches) if cuda_graph else 0
    drive(Tree(rows, queries=queries) if fits(rows) else rows, searches)
    return [search.hypotheses() for search in searches]


def drive(batch: Rows | Tree, searches: Sequence[Search]) -> None:
    """Run `searches` to their ends on a batch that has read their prompts."""
    tag_id = searches[0].settings.tag_id
    num_candidates = max(search.settings.num_candidates for search in searches)
    active = list(searches)
    while active:
        expansions = iter(expand(batch.logits, tag_id, num_candidates))
        for search in active:
            search.advance([next(expansions) for _ in search.pending])
        children = [
            [(beam.parent.slot, beam.token_ids[-1]) for beam in search.pending if beam.parent is not None]
            for search in active
        ]
        active = [search for search in active if search.pending]
        if active:
            batch.grow(children)


def expand(logits_RV: torch.Tensor, tag_id: int | None, number: int) -> list[Expansion]:
    """Return the `number` most likely tokens of each row except the tag, and P(tag), 0 without a tag.

    `logits_RV` has shape [rows, vocabulary]. At equal log-probability the token with the smaller id comes
    first, so that results do not depend on the sort order of a device. Raises UserError if one is NaN.
    """
    log_probs_RV = torch.log_softmax(logits_RV.float(), dim=-1)
    p_tags = [0.0] * len(log_probs_RV)
    if tag_id is not None:
        # Python floats have double precision, in which very small probabilities still differ.
        p_tags = [math.exp(min(value, 0.0)) for value in log_probs_RV[:, tag_id].tolist()]
        log_probs_RV[:, tag_id] = -torch.inf
    number = min(number, log_probs_RV.shape[1] - 1)
    # One token more than needed, to detect a tie at the last position.
    best, ids = log_probs_RV.topk(number + 1, dim=-1)
    has_ties = (best[:, 1:] == best[:, :-1]).any(dim=1).tolist()
    rows = zip(best.tolist(), ids.tolist(), p_tags, has_ties, strict=True)
    expansions = []
    for row, (values, tokens, p_tag, tied) in enumerate(rows):
        if math.isnan(values[0]):  # topk takes NaN for the highest value
            raise UserError(
                "the model's output is not finite; use another checkpoint, or convert this one to bfloat16."
            )
        if tied:
            ties = (log_probs_RV[row] >= values[number - 1]).nonzero()[:, 0].tolist()
            pairs = sorted((-log_probs_RV[row, token].item(), token) for token in ties)
            values, tokens = [-value for value, _ in pairs], [token for _, token in pairs]
        expansions.append(Expansion(tokens[:number], values[:number], p_tag))
    return expansions


def _eos_ids(eos_id: int | Collection[int] | None) -> frozenset[int]:
    if eos_id is None:
        return frozenset()
    return frozenset([eos_id] if isinstance(eos_id, int) else eos_id)


def _check(model: Any, prompt: Sequence[int], settings: SearchSettings, where: str) -> None:
    """Raise UserError if tokens or lengths do not fit the model."""
    config = model.config.get_text_config()
    vocabulary = config.vocab_size
    special = [("tag_id", settings.tag_id), *(("eos_id", token) for token in settings.eos_ids)]
    for name, token in special:
        if token is not None and not 0 <= token < vocabulary:
            raise UserError(f"{name}={token} is outside the model's vocabulary of {vocabulary} tokens.")
    if not len(prompt):
        raise UserError(f"{where} is empty; it needs at least one token.")
    if not 0 <= min(prompt) <= max(prompt) < vocabulary:
        raise UserError(f"{where} has a token outside the model's vocabulary of {vocabulary} tokens.")
    positions = getattr(config, "max_position_embeddings", None)
    if positions and len(prompt) + settings.max_new_tokens > positions:
        raise UserError(
            f"{where} has {len(prompt)} tokens, which with max_new_tokens={settings.max_new_tokens} "
            f"exceeds the model's {positions} positions."
        )
