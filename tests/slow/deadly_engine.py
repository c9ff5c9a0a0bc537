"""A vLLM engine that one request ends, as one does that needs more memory than there is."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor


class Deadly(LogitsProcessor):
    """Kill the engine's process when a request with the sampler's seed `deadly_seed` is in the batch.

    `additional_config` of the engine has the seed, and in `deaths` a folder that gets a file for each death.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.seed = vllm_config.additional_config["deadly_seed"]
        self.deaths = Path(vllm_config.additional_config["deaths"])

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update and any(params.seed == self.seed for _, params, *_ in batch_update.added):
            (self.deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
