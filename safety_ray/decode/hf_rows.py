"""The rows of a search on a transformers model as one batch with a key-value cache.

After each step, keys and values of the kept beams are copied to their candidates. This works for every cache
that can select rows, also those of sliding windows; tree.py avoids the copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

Children = Sequence[Sequence[tuple[int, int]]]
"""The next rows of each search: (index among the search's present rows, token to append)"""


class Rows:
    """A batch of growing texts; `logits` [rows, vocabulary] are those of the next token.

    Prompts of different lengths are padded on the left, so that all rows grow at the right end.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        input_ids = self._tensor([[0] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)])
        # Without padding there is no mask, so that attention uses its faster causal kernel.
        self.mask = self._tensor([[0] * pad + [1] * (longest - pad) for pad in pads]) if any(pads) else None
        starts = self._tensor(pads)[:, None]
        positions = (torch.arange(longest, device=model.device)[None] - starts).clamp(min=0)
        self.sizes = [1] * len(prompts)  # rows of each search
        self._forward(input_ids, positions)

    def grow(self, children: Children) -> None:
        """Replace the rows of each search by `children`; a search without children has ended."""
        parents: list[int] = []
        start = 0
        for size, rows in zip(self.sizes, children, strict=True):
            parents += [start + parent for parent, _ in rows]
            start += size
        self.sizes = [len(rows) for rows in children if rows]
        chosen = self._tensor(parents)
        self.cache.batch_select_indices(chosen)
        if self.mask is not None:
            mask = self.mask[chosen]
            self.mask = torch.cat([mask, mask.new_ones(len(parents), 1)], dim=1)
        token_ids = [token for rows in children for _, token in rows]
        self._forward(self._tensor(token_ids)[:, None], self.last[chosen, None] + 1)

    def _forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        output = self.model(
            input_ids=input_ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits: torch.Tensor = output.logits[:, -1]
        self.last = positions[:, -1]

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)
