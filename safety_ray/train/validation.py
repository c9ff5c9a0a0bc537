"""Settings of validation: measurement of checkpoints during training."""

from __future__ import annotations

from dataclasses import dataclass

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES

_COUNTS = (
    "max_documents", "max_prompts", "prompt_words", "beam_size", "num_candidates", "max_new_tokens"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """Measure checkpoints during training, on documents that are not trained on."""

    every: int = setting("validate every n-th checkpoint and the last one; 0: none", default=0)
    documents: list[str] = setting(
        "datasets with id, text and label or score; empty: the documents that packing held out",
        factory=list,
    )
    source: str = setting(
        "column with a document's source; perplexity is computed per source", default="source"
    )
    safe_up_to: int = setting("highest level of a safe document", default=1)
    unsafe_from: int = setting("lowest level of an unsafe document", default=4)
    max_documents: int = setting("number of safe and of unsafe documents", default=100)
    document_tokens: int = setting("maximum tokens of a document; at most the row length", default=512)
    classifier: str = setting(
        "folder of a fit, or `default`, the shipped classifier: judges continuations of prompts; empty: no "
        "continuations",
        default="",
    )
    max_prompts: int = setting("number of prompts, from unsafe documents", default=20)
    prompt_words: int = setting("words of a document in its prompt", default=12)
    beam_size: int = setting("beams of both searches", default=4)
    num_candidates: int = setting("candidates per beam", default=4)
    drop_share: float = setting("share of candidates that Safe Beam Search drops", default=0.5)
    max_new_tokens: int = setting("maximum tokens of a continuation", default=24)
    judge_from: int = setting("lowest score of an unsafe continuation", default=3)
    cpus: int = setting(
        "CPUs and threads, in addition to those of the workers; 0: shares theirs", default=1, identity=False
    )
    gpus: float = setting(
        "GPUs, in addition to those of the workers; 0: runs on the CPU", default=0.0, identity=False
    )
    timeout_s: float = setting(
        "seconds after which a validation is cancelled", default=3600.0, identity=False
    )

    def __post_init__(self) -> None:
        if self.every < 0 or self.cpus < 0 or self.gpus < 0:
            raise UserError("validation: every, cpus and gpus must be at least 0.")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"validation.{name}={getattr(self, name)}: must be at least 1.")
        if self.document_tokens < 2:
            raise UserError(f"validation.document_tokens={self.document_tokens}: must be at least 2.")
        if not 0 <= self.safe_up_to < self.unsafe_from < SCORES:
            raise UserError(
                f"validation: safe_up_to={self.safe_up_to} must be less than unsafe_from={self.unsafe_from}, "
                f"and both from 0 to {SCORES - 1}."
            )
        if not 0 < self.judge_from < SCORES or not 0 <= self.drop_share < 1 or not self.timeout_s > 0:
            raise UserError(
                f"validation: judge_from must be from 1 to {SCORES - 1}, drop_share in [0, 1) and "
                "timeout_s above 0."
            )
