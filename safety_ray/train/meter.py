"""What a step was worth: losses, speed, the share of the device in use, the shares spent waiting."""

from __future__ import annotations

import math
import resource
from dataclasses import replace
from typing import Any

import torch

from safety_ray.train.checkpoint import Progress
from safety_ray.train.step import Seen

_PEAKS = {  # dense bf16 TFLOP/s as the makers state them; the first name that fits counts
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
}


def peak_of(device: torch.device, precision: str) -> float:
    """TFLOP/s that `device` is stated to do in bf16; 0 where that is not known or not what is used."""
    if device.type != "cuda" or precision != "bf16":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAKS.items() if known in name), 0.0)


class Meter:
    """Makes the lines of metrics.jsonl.

    `flops_per_token` and `peak` (FLOP/s of all workers together; 0: unknown) give the MFU.
    """

    def __init__(
        self, done: Progress, steps: int, *, flops_per_token: float, peak: float, device: torch.device
    ) -> None:
        self.steps, self.flops_per_token, self.peak, self.device = steps, flops_per_token, peak, device
        self.begun = replace(done)
        self.waits = (0.0, 0.0)

    def line(
        self, done: Progress, seen: Seen, rate: float, *, waits: tuple[float, float], bad: str = ""
    ) -> dict[str, Any]:
        """The line of the step that ended at `done`; speeds and shares are since the line before.

        `waits`: seconds this worker has waited so far for data and for checkpoints.
        """
        seconds = max(done.seconds - self.begun.seconds, 1e-9)
        speed = (done.tokens - self.begun.tokens) / seconds
        per_step = seconds / max(done.step - self.begun.step, 1)
        for_data, for_checkpoints = (now - old for now, old in zip(waits, self.waits, strict=True))
        line = {
            "step": done.step,
            "loss": _number(seen.loss),
            "tag_loss": _number(seen.tag_loss),
            **{f"loss_{name}": _number(loss) for name, loss in seen.source_losses.items()},
            "gradient": _number(seen.length),
            "lr": rate,
            "tokens": done.tokens,
            "tokens_per_second": round(speed),
            **({"mfu": round(speed * self.flops_per_token / self.peak, 4)} if self.peak else {}),
            "memory_gib": round(self._memory() / 2**30, 2),
            "data_wait": round(for_data / seconds, 4),
            "checkpoint_wait": round(for_checkpoints / seconds, 4),
            "skipped": done.skipped,
            **({"left_out": bad} if bad else {}),
            "seconds": round(done.seconds, 2),
            "seconds_left": round(per_step * (self.steps - done.step), 1),
        }
        self.begun, self.waits = replace(done), waits
        return line

    def _memory(self) -> int:
        """Most bytes this worker has held: on its GPU, or in memory."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _number(value: float | None) -> float | None:
    """JSON has no nan and no inf."""
    return value if value is not None and math.isfinite(value) else None
