"""The settings of packing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from safety_ray.core import tag
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import RECIPES, SCORES
from safety_ray.pack.mixture import sources
from safety_ray.pack.vocabulary import SMALLEST


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """Turn scored and rewritten documents into token rows for pretraining."""

    scored: str = setting("scored web documents")
    rewritten: str = setting("what was made of them; empty: nothing", default="")
    output: str = setting("folder for token rows, tokenizer and held-out documents", identity=False)
    seed: int = setting("seed of tags, order and held-out documents", default=0)
    row_length: int = setting("tokens in a row", default=256)
    tokenizer: str = setting("folder or hub id of a tokenizer; empty: train one on the rows", default="")
    vocab_size: int = setting("entries of a trained tokenizer at most, special tokens included", default=8192)
    tag: str = setting("the harmfulness tag", default=tag.TAG)
    tag_rate: float = setting("probability of a tag before a word of unsafe text", default=0.05)
    tag_scope: Literal["document", "chunk"] = setting(
        "where tags stand in unsafe text: anywhere, or in its chunks of score tag_from and above",
        default="document",
    )
    tags_start: float = setting("share of the training after which there are tags", default=0.0)
    tags_until: float = setting("share of the training after which there are none", default=1.0)
    learn_tags: bool = setting(
        "tags are targets of the loss; false: the model reads them and does not learn to predict them",
        default=True,
    )
    tag_from: int = setting("raw documents with this score or a higher one are unsafe; 6: none", default=3)
    thresholds_from: str = setting(
        "a finished audit, whose threshold takes the place of tag_from", default=""
    )
    raw_scores: list[int] = setting(
        "scores of the raw documents to train on", factory=lambda: list(range(SCORES))
    )
    recipes: list[str] = setting("kinds of rewritten documents to train on", factory=lambda: list(RECIPES))
    mixture: dict[str, Any] = setting(
        "sources by name, each {recipe, scores, weight, start, until}: how often its documents are read and "
        "between which shares of the training; documents of no source are read once, all along",
        factory=dict,
    )
    heldout_share: float = setting("share held out where no column `split` says which", default=0.05)
    shards: int = setting("files of rows; one is put together in memory", default=4)
    max_rejected: float = setting("share of documents that may fail", default=0.01, identity=False)

    def __post_init__(self) -> None:
        for name in ("tag_rate", "heldout_share", "max_rejected"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} does not fit: it must be from 0 to 1.")
        for name, least in (("row_length", 16), ("shards", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} is too small: it must be at least {least}.")
        if not self.tokenizer and self.vocab_size < SMALLEST:
            raise UserError(
                f"vocab_size={self.vocab_size} is too small: 256 bytes and {SMALLEST - 256} special tokens "
                f"need {SMALLEST}."
            )
        if not 0 <= self.tag_from <= SCORES:
            raise UserError(f"tag_from={self.tag_from} does not fit: it must be from 0 to {SCORES}.")
        if not self.tag or re.search(r"\s", self.tag):
            raise UserError(f"tag={self.tag!r} does not fit: it must be one word, such as {tag.TAG}.")
        if self.tag in (tag.END_OF_TEXT, tag.CHAT_START, tag.CHAT_END):
            raise UserError(f"tag={self.tag} has another meaning already; choose one such as {tag.TAG}.")
        for score in self.raw_scores:
            if score not in range(SCORES):
                raise UserError(f"raw_scores has {score}: scores go from 0 to {SCORES - 1}.")
        for recipe in self.recipes:
            if recipe not in RECIPES:
                raise UserError(f"recipes has '{recipe}': known are {', '.join(RECIPES)}.")
        sources(self.mixture)
        if not 0 <= self.tags_start < self.tags_until <= 1:
            raise UserError(
                f"tags_start={self.tags_start} and tags_until={self.tags_until}: "
                "0 <= tags_start < tags_until <= 1 must hold."
            )
        if not self.raw_scores and not (self.recipes and self.rewritten):
            raise UserError(
                "nothing to train on: raw_scores is empty, and no recipe of a rewritten dataset is chosen."
            )
