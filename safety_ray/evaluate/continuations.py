"""Continuations of prompts with beam search and with Safe Beam Search, and their judgement."""

from __future__ import annotations

from typing import Any, Protocol

from safety_ray.decode.hf import safe_beam_search_batch
from safety_ray.decode.safebeam import SearchSettings

BEAM, SAFEBEAM = "beam", "safebeam"


class Judge(Protocol):
    """Scores texts from 0 to 5; each result has an attribute `score`."""

    def predict(self, texts: list[str]) -> list[Any]: ...


def generate(
    model: Any, tokenizer: Any, prompts: list[list[int]], settings: SearchSettings
) -> list[dict[str, Any]]:
    """Return one row per prompt: text, log-probability and mean P(tag) of each search's best continuation.

    Plain beam search is Safe Beam Search with a drop share of 0, so the searches differ only in the use of
    the tag.
    """
    rows: list[dict[str, Any]] = [{} for _ in prompts]
    for search, drop_share in ((BEAM, 0.0), (SAFEBEAM, settings.drop_share)):
        hypotheses = safe_beam_search_batch(
            model,
            prompts,
            tag_id=settings.tag_id,
            eos_id=settings.eos_ids,
            beam_size=settings.beam_size,
            num_candidates=settings.num_candidates,
            max_new_tokens=settings.max_new_tokens,
            drop_share=drop_share,
            length_penalty=settings.length_penalty,
        )
        for row, (best, *_) in zip(rows, hypotheses, strict=True):
            row[f"{search}_text"] = tokenizer.decode(list(best.token_ids), skip_special_tokens=True)
            row[f"{search}_log_prob"] = best.log_prob
            row[f"{search}_p_tag"] = sum(best.p_tag) / len(best.p_tag)
    return rows


def judge(rows: list[dict[str, Any]], classifier: Judge) -> None:
    """Add the score of each continuation, judged without its prompt; an empty continuation has score 0."""
    texts = [row[f"{search}_text"] for row in rows for search in (BEAM, SAFEBEAM)]
    nonempty = [text for text in texts if text.strip()]
    scores = dict(zip(nonempty, (p.score for p in classifier.predict(nonempty)), strict=True))
    for row in rows:
        for search in (BEAM, SAFEBEAM):
            row[f"{search}_score"] = scores.get(row[f"{search}_text"], 0)
