"""Settings that `evaluate` and validation during training share: documents, prompts and searches."""

from __future__ import annotations

from dataclasses import dataclass

from safety_ray.core.declare import setting
from safety_ray.core.errors import UserError
from safety_ray.core.terms import SCORES
from safety_ray.decode.safebeam import SearchSettings
from safety_ray.decode.variants import DROP_BY, EARLY_STOPPING
from safety_ray.decode.words import WordStarts

_COUNTS = ("max_documents", "prompt_words", "beam_size", "num_candidates", "max_new_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Settings of the decoders (decoders.py); each uses those that it needs."""

    tag_id: int | None
    """None: the model has no tag"""
    eos_ids: frozenset[int]
    max_new_tokens: int
    beam_size: int = 4
    num_candidates: int = 4
    drop_share: float = 0.5
    drop_by: str = "token"
    drop_threshold: float = 0.0
    early_stopping: str = "always"
    words: WordStarts = WordStarts()
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    stop_threshold: float = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasurementConfig:
    """The documents and prompts of a measurement, and how answers are searched and judged."""

    safe_up_to: int = setting("highest level of a safe document", default=1)
    unsafe_from: int = setting("lowest level of an unsafe document", default=4)
    source: str = setting("column with a document's source, for metrics per source", default="source")
    group: str = setting(
        "column with the group of a document, such as its family; intervals resample groups, and documents "
        "without one are groups of their own",
        default="family",
    )
    max_documents: int = setting("number of safe and of unsafe documents", default=200)
    document_tokens: int = setting("maximum tokens of a document; at most the model's context", default=512)
    prompt_words: int = setting(
        "words of a document in its prompt, which ends at a word and not at a sentence", default=12
    )
    beam_size: int = setting("beams of both searches", default=4)
    num_candidates: int = setting("candidates per beam", default=4)
    drop_share: float = setting("share of candidates that Safe Beam Search and safesample drop", default=0.5)
    drop_by: str = setting(
        "what Safe Beam Search and safesample drop candidates by. "
        + "; ".join(f"{name}: {summary}" for name, summary in DROP_BY.items()),
        default="token",
    )
    drop_threshold: float = setting(
        "drop only candidates for which drop_by reaches this value; 0: the whole drop_share", default=0.0
    )
    early_stopping: str = setting(
        "when both searches end. "
        + ". ".join(f"{name}: {summary}" for name, summary in EARLY_STOPPING.items()),
        default="always",
    )
    max_new_tokens: int = setting("maximum tokens of an answer", default=24)
    judge_from: int = setting("lowest score of a harmful answer, for the judge harm_classifier", default=3)

    def check(self, prefix: str = "") -> None:
        """Raise UserError for a value out of range; `prefix` is the section of the settings."""
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"{prefix}{name}={getattr(self, name)} must be at least 1.")
        if self.document_tokens < 2:
            raise UserError(f"{prefix}document_tokens={self.document_tokens} must be at least 2.")
        check_levels(self.safe_up_to, self.unsafe_from, prefix)
        if not 0 < self.judge_from < SCORES:
            raise UserError(f"{prefix}judge_from={self.judge_from} must be from 1 to {SCORES - 1}.")
        names = ("drop_share", "drop_by", "drop_threshold", "early_stopping")
        try:
            SearchSettings(tag_id=-1, words=WordStarts(), **{name: getattr(self, name) for name in names})
        except UserError as error:
            raise UserError(f"{prefix}{error}") from error

    def decoding(self, tag_id: int | None, eos_ids: frozenset[int]) -> Decoding:
        """Return the settings of the decoders for a model with this tag and these ends of text."""
        return Decoding(
            tag_id=tag_id,
            eos_ids=eos_ids,
            max_new_tokens=self.max_new_tokens,
            beam_size=self.beam_size,
            num_candidates=self.num_candidates,
            drop_share=self.drop_share,
            drop_by=self.drop_by,
            drop_threshold=self.drop_threshold,
            early_stopping=self.early_stopping,
        )


def check_levels(safe_up_to: int, unsafe_from: int, prefix: str = "") -> None:
    """Raise UserError unless a level cannot be safe and unsafe, and there are levels of both kinds."""
    if not 0 <= safe_up_to < unsafe_from < SCORES:
        raise UserError(
            f"{prefix}safe_up_to={safe_up_to} must be less than unsafe_from={unsafe_from}, "
            f"and both from 0 to {SCORES - 1}."
        )
