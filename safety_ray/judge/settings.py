"""Settings of a language model that judges."""

from __future__ import annotations

from dataclasses import dataclass

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.llm.engine import EngineConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge(EngineConfig):
    """The engine of the judge: greedy decoding and short replies."""

    max_tokens: int = setting("maximum tokens in a reply; a truncated reply is an error", default=256)
    temperature: float = setting("0 selects the most likely token", default=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentJudge(Judge):
    """A judge that scores documents, which may be of any length."""

    max_chars: int = setting(
        "maximum characters of a document that the judge reads, about four per token: of a longer one, four "
        "parts at equal distances, or the beginning and the classifier's most harmful chunk (docs/score.md)",
        default=12_000,
    )

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        if self.max_chars < 200:
            raise UserError(f"max_chars={self.max_chars} of the judge must be at least 200.")


def check_is_model(judge: Judge, key: str) -> None:
    """Raise UserError if the settings under `key` do not name a language model."""
    if not judge.is_model:
        raise UserError(f"a judge needs a language model: set {key}.kind to vllm or openai.")
