"""Settings of the pack job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from safety_ray.core import partition, tag
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import RECIPES, SCORES
from safety_ray.pack.mixture import Source, sources
from safety_ray.pack.vocabulary import MIN_VOCAB_SIZE


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """Turn scored and rewritten documents into token rows for pretraining."""

    scored: str = setting("scored web documents")
    rewritten: str = setting("output folder of rewrite; empty: no rewritten documents", default="")
    output: str = setting("folder for token rows, tokenizer and held-out documents", identity=False)
    seed: int = setting("seed of tags, order of documents and held-out documents", default=0)
    row_length: int = setting("tokens in a row", default=256)
    tokenizer: str = setting("folder or hub id of a tokenizer; empty: train one on the rows", default="")
    vocab_size: int = setting("size limit of a trained tokenizer, including special tokens", default=8192)
    tag: str = setting("the harmfulness tag; later stages read it from the tokenizer", default=tag.TAG)
    tag_rate: float = setting("probability of a tag before a word of unsafe text", default=0.05)
    tag_scope: Literal["document", "chunk", "beginning"] = setting(
        "where unsafe text contains tags: anywhere; only in chunks of score tag_from and above; once, before "
        "its first word, whatever tag_rate is (conditional training)",
        default="document",
    )
    tags_start: float = setting("share of training after which documents contain tags", default=0.0)
    tags_until: float = setting("share of training until which documents contain tags", default=1.0)
    learn_tags: bool = setting(
        "tags are targets of the loss; false: the model reads tags but does not learn to predict them",
        default=True,
    )
    learn_unsafe: bool = setting(
        "the text of unsafe documents is a target of the loss; false: of these documents only the tags are",
        default=True,
    )
    tag_from: int = setting("lowest score of an unsafe raw document; 6: none is unsafe", default=3)
    thresholds_from: str = setting("output folder of audit, whose threshold replaces tag_from", default="")
    raw_scores: list[int] = setting(
        "scores of the raw documents to train on", factory=lambda: list(range(SCORES))
    )
    recipes: list[str] = setting(
        "recipes of the rewritten documents to train on", factory=lambda: list(RECIPES)
    )
    keep_duplicates: bool = setting(
        "use each of the web documents with the same text; false: one of them, by a digest of the ids",
        default=False,
    )
    mixture: dict[str, Any] = setting(
        "sources by name, each {recipe, scores, weight, start, until}: how often its documents are read, and "
        "between which shares of training; documents of no source are read once, throughout training",
        factory=dict,
        of=dict[str, Source],
    )
    heldout_share: float = setting(
        "share of web documents held out without values in a column `split`", default=0.05
    )
    heldout_max: int = setting(
        "maximum (about) of held-out web documents; with a column `split`, maximum of those written to "
        "heldout/",
        default=50_000,
    )
    shards: int = setting(
        "number of output files, each of which must fit in memory; 0: one per 200M tokens", default=0
    )
    max_rejected: float = setting(
        "share of documents that may be rejected before the job fails", default=0.01, identity=False
    )
    partition: str = setting(partition.SETTING, default="")

    def __post_init__(self) -> None:
        partition.check(self.partition)
        if self.partition and not self.tokenizer:
            raise UserError(
                f"partition={self.partition} needs tokenizer=FOLDER or a hub id, because one is trained on "
                "all documents; pack without partition trains one, such as on one file of them."
            )
        for name in ("tag_rate", "heldout_share", "max_rejected"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: must be from 0 to 1.")
        for name, minimum in (("row_length", 16), ("shards", 0), ("heldout_max", 1)):
            if getattr(self, name) < minimum:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {minimum}.")
        if not self.tokenizer and self.vocab_size < MIN_VOCAB_SIZE:
            raise UserError(
                f"vocab_size={self.vocab_size}: must be at least {MIN_VOCAB_SIZE}, for 256 bytes and "
                f"{MIN_VOCAB_SIZE - 256} special tokens."
            )
        if not 0 <= self.tag_from <= SCORES:
            raise UserError(f"tag_from={self.tag_from}: must be from 0 to {SCORES}.")
        if not self.tag or re.search(r"\s", self.tag):
            raise UserError(f"tag={self.tag!r}: must be one word, such as {tag.TAG}.")
        if self.tag in (tag.END_OF_TEXT, tag.CHAT_START, tag.CHAT_END):
            raise UserError(f"tag={self.tag}: this token has another meaning; choose one such as {tag.TAG}.")
        for score in self.raw_scores:
            if score not in range(SCORES):
                raise UserError(f"raw_scores: invalid score {score}; scores are 0 to {SCORES - 1}.")
        for recipe in self.recipes:
            if recipe not in RECIPES:
                raise UserError(f"recipes: unknown recipe '{recipe}'; choose from {', '.join(RECIPES)}.")
        sources(self.mixture)
        if not 0 <= self.tags_start < self.tags_until <= 1:
            raise UserError(
                f"tags_start={self.tags_start} and tags_until={self.tags_until}: "
                "0 <= tags_start < tags_until <= 1 is required."
            )
        if not self.raw_scores and not (self.recipes and self.rewritten):
            raise UserError(
                "nothing to train on: raw_scores is empty, and recipes or rewritten is empty as well."
            )

    @property
    def inserts_tags(self) -> bool:
        """Whether documents to train on contain tags."""
        return self.tag_rate > 0 and any(score >= self.tag_from for score in self.raw_scores)
