"""A sequence classifier of transformers with six labels, such as the one published by the paper's authors."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from safety_ray.classifier.transformer import Transformer, load_config, longest_text
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES

LONGEST = 2048
"""default maximum of a chunk's tokens: the paper's length for its large encoder"""


class SequenceClassifier(Transformer):
    """Encoder and head saved together by transformers; its six logits are those of the scores 0-5."""

    def __init__(
        self, name: str, max_tokens: int = 0, device: str | None = None, *, trust_remote_code: bool = False
    ) -> None:
        """With `max_tokens` 0, chunks have the model's maximum, but at most 2048. UserError unless six
        labels.
        """
        settings = load_config(name, trust_remote_code)
        check_labels(settings, name)
        super().__init__(
            AutoModelForSequenceClassification,
            name,
            max_tokens or min(longest_text(settings), LONGEST),
            device,
            trust_remote_code=trust_remote_code,
        )

    def logits(self, chunks: list[list[int]], batch_tokens: int = 0) -> torch.Tensor:
        """Return (chunks, 6) fp32 logits."""

        def forward(ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=ids_BT, attention_mask=mask_BT).logits.float()
            return logits

        return self.run(forward, chunks, batch_tokens) if chunks else torch.empty(0, SCORES)


def check_labels(settings: Any, name: str) -> None:
    """Raise UserError if the model is not a sequence classifier with six labels."""
    if not any("SequenceClassification" in kind for kind in settings.architectures or []):
        raise UserError(
            f"'{name}' is a model ({', '.join(settings.architectures or ['unknown architecture'])}), but not "
            "a sequence classifier; train a head on it with python -m jobs.fit encoder=..."
        )
    if settings.num_labels != SCORES:
        raise UserError(f"'{name}' has {settings.num_labels} labels; a harm classifier has {SCORES}: 0 to 5.")
