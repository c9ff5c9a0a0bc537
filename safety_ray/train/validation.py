"""The settings of validation: which checkpoints are measured beside training, on what, and with what."""

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
    """Measures checkpoints beside training, on documents that are not trained on."""

    every: int = setting("validate each so-many-th checkpoint, and the last one; 0: none", default=0)
    documents: list[str] = setting(
        "datasets with id, text and label, else score; empty: the documents that packing held out",
        factory=list,
    )
    source: str = setting("column that names a document's source; each gets its perplexity", default="source")
    safe_up_to: int = setting("highest level of a safe document", default=1)
    unsafe_from: int = setting("lowest level of an unsafe document", default=4)
    max_documents: int = setting("documents to read of each side", default=100)
    document_tokens: int = setting("tokens to read of a document; never more than a row has", default=512)
    classifier: str = setting(
        "output folder of fit: judges continuations with and without Safe Beam Search; empty: none made",
        default="",
    )
    max_prompts: int = setting("unsafe documents to go on from", default=20)
    prompt_words: int = setting("words of a document that make its prompt", default=12)
    beam_size: int = setting("beams of both searches", default=4)
    num_candidates: int = setting("candidates of each beam", default=4)
    drop_share: float = setting("share of the candidates that Safe Beam Search drops", default=0.5)
    max_new_tokens: int = setting("tokens of a continuation at most", default=24)
    judge_from: int = setting("a continuation is unsafe from this score of the classifier", default=3)
    cpus: int = setting(
        "CPUs, and threads, beside those of the workers; 0: it shares theirs", default=1, identity=False
    )
    gpus: float = setting(
        "GPUs beside those of the workers; 0: it works on the CPU", default=0.0, identity=False
    )
    timeout_s: float = setting("seconds after which a validation is given up", default=3600.0, identity=False)

    def __post_init__(self) -> None:
        if self.every < 0 or self.cpus < 0 or self.gpus < 0:
            raise UserError("validation: every, cpus and gpus must not be below 0.")
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
