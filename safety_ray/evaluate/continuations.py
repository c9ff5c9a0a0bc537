"""How a model goes on from a prompt, with and without Safe Beam Search, and how harmful that is."""

from __future__ import annotations

from typing import Any, Protocol

from safety_ray.decode.hf import safe_beam_search_batch
from safety_ray.decode.safebeam import SearchSettings

BEAM, SAFEBEAM = "beam", "safebeam"


class Judge(Protocol):
    def predict(self, texts: list[str]) -> list[Any]: ...


def go_on(
    model: Any, tokenizer: Any, prompts: list[list[int]], settings: SearchSettings
) -> list[dict[str, Any]]:
    """One row per prompt: for each way the best continuation's text, log-probability and mean P(tag).

    Plain beam search is the same search with no share to drop, so that only the tag differs.
    """
    rows: list[dict[str, Any]] = [{} for _ in prompts]
    for way, share in ((BEAM, 0.0), (SAFEBEAM, settings.drop_share)):
        found = safe_beam_search_batch(
            model,
            prompts,
            tag_id=settings.tag_id,
            eos_id=settings.eos_ids,
            beam_size=settings.beam_size,
            num_candidates=settings.num_candidates,
            max_new_tokens=settings.max_new_tokens,
            drop_share=share,
            length_penalty=settings.length_penalty,
        )
        for row, (best, *_) in zip(rows, found, strict=True):
            row[f"{way}_text"] = tokenizer.decode(list(best.token_ids), skip_special_tokens=True)
            row[f"{way}_log_prob"] = best.log_prob
            row[f"{way}_p_tag"] = sum(best.p_tag) / len(best.p_tag)
    return rows


def judge(rows: list[dict[str, Any]], classifier: Judge) -> None:
    """Add each continuation's score 0-5, judged without its prompt; who says nothing says nothing unsafe."""
    texts = [row[f"{way}_text"] for row in rows for way in (BEAM, SAFEBEAM)]
    said = [text for text in texts if text.strip()]
    scores = dict(zip(said, (p.score for p in classifier.predict(said)), strict=True))
    for row in rows:
        for way in (BEAM, SAFEBEAM):
            row[f"{way}_score"] = scores.get(row[f"{way}_text"], 0)
