"""A transformers sequence classifier with six labels, such as the paper's published one."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from safety_ray.classifier.transformer import Transformer, load_config, longest_text
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES

LONGEST = 2048
"""tokens of a chunk at most, where the model takes more: the paper's length for its large encoder"""


class SequenceClassifier(Transformer):
    """Encoder and head as transformers saves them together; its logits are those of the scores 0-5."""

    def __init__(
        self, name: str, max_tokens: int = 0, device: str | None = None, *, trust_remote_code: bool = False
    ) -> None:
        """`max_tokens` 0: as many as the model takes, 2048 at most. UserError without six labels."""
        settings = load_config(name, trust_remote_code)
        check_labels(settings, name)
        super().__init__(
            AutoModelForSequenceClassification,
            name,
            max_tokens or min(longest_text(settings), LONGEST),
            device,
            trust_remote_code=trust_remote_code,
        )

    @torch.no_grad()
    def logits(self, chunks: list[list[int]], batch_tokens: int = 0) -> torch.Tensor:
        """(chunks, 6) fp32."""
        out = torch.empty(len(chunks), SCORES)
        for at, ids_BT, mask_BT in self.batches(chunks, batch_tokens):
            out[at] = self.model(input_ids=ids_BT, attention_mask=mask_BT).logits.float().cpu()
        return out


def check_labels(settings: Any, name: str) -> None:
    """UserError where a model is no sequence classifier, or one of other than six labels."""
    if not any("SequenceClassification" in kind for kind in settings.architectures or []):
        raise UserError(
            f"'{name}' is a model ({', '.join(settings.architectures or ['of no known kind'])}), but no "
            "sequence classifier; fit a head on it with python -m jobs.fit encoder=..."
        )
    if settings.num_labels != SCORES:
        raise UserError(
            f"'{name}' tells {settings.num_labels} labels apart; a harm classifier has {SCORES}: 0 to 5."
        )
