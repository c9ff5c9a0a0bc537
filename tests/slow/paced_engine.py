"""A vLLM engine whose speed a test controls: fast for the first requests, then slow while a file exists."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

FAST_REQUESTS = 6
SECONDS_PER_TOKEN = 2.0


class Pace(LogitsProcessor):
    """Take `SECONDS_PER_TOKEN` per token after `FAST_REQUESTS` requests, while the file `slow_while` exists.

    `additional_config` of the engine names the file. The engine never stops, so no watchdog notices.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.slow_while = Path(vllm_config.additional_config["slow_while"])
        self.requests = 0

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        self.requests += len(batch_update.added) if batch_update else 0
        if self.requests > FAST_REQUESTS and self.slow_while.exists():
            time.sleep(SECONDS_PER_TOKEN)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
