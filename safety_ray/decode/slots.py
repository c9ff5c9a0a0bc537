"""Mask the tag, or end texts at it, in batches whose rows change with each step.

The same logic as `processor.TagRows`, for engines in which a request keeps a slot, while each step has its
own order of rows. The settings of all slots lie in tensors on the device, indexed by the slots of a step's
rows, so that a step copies nothing between host and device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from safety_ray.decode.processor import CERTAIN, TagPolicy, log_probability


class TagSlots:
    """The slots of an engine that mask, stop or report, and their effect on a step's logits.

    Shapes: N slots, B rows of the batch, V tokens of the vocabulary, C columns of log-probabilities.
    """

    def __init__(self, tag: int, num_slots: int, device: torch.device | str = "cpu") -> None:
        self.tag, self.device = tag, torch.device(device)
        self._masks_N = torch.zeros(num_slots, dtype=torch.bool, device=device)
        self._first_N = torch.full((num_slots,), math.inf, dtype=torch.float32, device=device)
        self._later_N = self._first_N.clone()
        self._ends_N = torch.full((num_slots,), tag, dtype=torch.int64, device=device)
        self._columns_N = torch.zeros(num_slots, dtype=torch.int64, device=device)  # 0: no report
        self._stops, self._reports = np.zeros(num_slots, dtype=bool), np.zeros(num_slots, dtype=bool)
        self._changed: dict[int, tuple[bool, float, float, int, int]] = {}

    def add(self, slot: int, policy: TagPolicy, end: int | None = None, *, column: int | None = None) -> bool:
        """Put a request in `slot`, replacing the one that was there; return whether it may change logits.

        `end` is a result of `end_token`; log P(tag) is written to `column` of the log-probabilities.
        """
        if policy.ends_texts and end is None:
            raise ValueError("a request whose text may be ended needs a token that ends it")
        first, later = policy.log_thresholds
        masks = policy.mode != "off"
        self._changed[slot] = (masks, first, later, self.tag if end is None else end, column or 0)
        self._stops[slot], self._reports[slot] = first < math.inf, bool(column)
        return masks

    def flush(self) -> None:
        """Copy the changes since the last call to the device; call it before the step that they concern."""
        if not self._changed:
            return
        slots = self._copy(list(self._changed), torch.int64)
        targets = (self._masks_N, self._first_N, self._later_N, self._ends_N, self._columns_N)
        for target, values in zip(targets, zip(*self._changed.values(), strict=True), strict=True):
            target[slots] = self._copy(values, target.dtype)
        self._changed.clear()

    def _copy(self, values: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
        host = torch.tensor(values, dtype=dtype)
        return host.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else host

    def measure(self, logits_BV: torch.Tensor, slots_on_host: np.ndarray[Any, Any]) -> torch.Tensor | None:
        """Return log P(tag) of all rows, float32, from unchanged logits; None if no row stops or reports."""
        if not (self._stops[slots_on_host] | self._reports[slots_on_host]).any():
            return None
        return log_probability(logits_BV, self.tag)

    def apply(
        self,
        logits_BV: torch.Tensor,
        slots_B: torch.Tensor,
        is_first_B: torch.Tensor,
        log_p_tags_B: torch.Tensor | None,
    ) -> torch.Tensor:
        """Apply the modes of all rows to float32 logits in place, and return them.

        `slots_B` are the slots of the rows, `is_first_B` says which rows sample a text's first token, and
        `log_p_tags_B` is the result of `measure`.
        """
        masked_B = logits_BV[:, self.tag].masked_fill(self._masks_N[slots_B], -math.inf)
        logits_BV[:, self.tag] = masked_B
        if log_p_tags_B is not None:
            stop_B = log_p_tags_B >= torch.where(is_first_B, self._first_N[slots_B], self._later_N[slots_B])
            ends_B1 = self._ends_N[slots_B].unsqueeze(1)
            ended_B1 = logits_BV.gather(1, ends_B1).masked_fill(stop_B.unsqueeze(1), CERTAIN)
            logits_BV.scatter_(1, ends_B1, ended_B1)
        return logits_BV

    def report(
        self,
        log_p_tags_B: torch.Tensor,
        slots_B: torch.Tensor,
        token_ids_BC: torch.Tensor,
        log_probs_BC: torch.Tensor,
    ) -> None:
        """Write the result of `measure` into the engine's table of tokens and their log-probabilities."""
        columns_B1 = self._columns_N[slots_B].unsqueeze(1)
        reports_B1 = columns_B1 > 0
        kept = token_ids_BC.gather(1, columns_B1), log_probs_BC.gather(1, columns_B1)
        token_ids_BC.scatter_(1, columns_B1, kept[0].masked_fill(reports_B1, self.tag))
        values_B1 = torch.where(reports_B1, log_p_tags_B.unsqueeze(1).to(kept[1].dtype), kept[1])
        log_probs_BC.scatter_(1, columns_B1, values_B1)
