"""Metrics of a step: losses, speed, model FLOPs utilization (MFU), and shares of time spent waiting."""

from __future__ import annotations

import math
import re
import resource
from dataclasses import replace
from typing import Any

import torch

from safety_ray.train.checkpoint import Progress
from safety_ray.train.step import StepResult

_PEAKS = {  # dense bf16 TFLOP/s according to the manufacturer; the first matching name is used
    "B200": 2250.0,
    "H200": 989.0,
    "GH200": 989.0,
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
    """Return the peak TFLOP/s of `device` in bf16; 0 if it is unknown or another precision is used."""
    if device.type != "cuda" or precision != "bf16":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if re.search(rf"\b{part}\b", name)), 0.0)


class Meter:
    """Computes the lines of metrics.jsonl.

    Args:
        done: progress at the start of the run.
        steps: number of steps of the whole run.
        flops_per_token: FLOPs of a forward and backward pass per token.
        peak: peak FLOP/s of all workers together; 0 if unknown, and then there is no MFU.
        device: device of this worker.
    """

    def __init__(
        self, done: Progress, steps: int, *, flops_per_token: float, peak: float, device: torch.device
    ) -> None:
        self.steps, self.flops_per_token, self.peak, self.device = steps, flops_per_token, peak, device
        self.previous = replace(done)
        self.waits = (0.0, 0.0)

    def line(
        self, done: Progress, result: StepResult, rate: float, *, waits: tuple[float, float], bad: str = ""
    ) -> dict[str, Any]:
        """Return the line of the step that ended at `done`.

        Speeds and shares are averages since the previous line. `waits` are the seconds that this worker has
        waited for data and for checkpoints so far; `bad` is the reason if the step was skipped.
        """
        seconds = max(done.seconds - self.previous.seconds, 1e-9)
        speed = (done.tokens - self.previous.tokens) / seconds
        per_step = seconds / max(done.step - self.previous.step, 1)
        for_data, for_checkpoints = (total - before for total, before in zip(waits, self.waits, strict=True))
        line = {
            "step": done.step,
            "loss": _number(result.loss),
            "tag_loss": _number(result.tag_loss),
            **{f"loss_{name}": _number(loss) for name, loss in result.source_losses.items()},
            "grad_norm": _number(result.grad_norm),
            "lr": rate,
            "tokens": done.tokens,
            "tokens_per_second": round(speed),
            **({"mfu": round(speed * self.flops_per_token / self.peak, 4)} if self.peak else {}),
            "memory_gib": round(self._memory() / 2**30, 2),
            "data_wait": round(for_data / seconds, 4),
            "checkpoint_wait": round(for_checkpoints / seconds, 4),
            "skipped": done.skipped,
            **({"skip_reason": bad} if bad else {}),
            "seconds": round(done.seconds, 2),
            "seconds_left": round(per_step * (self.steps - done.step), 1),
        }
        self.previous, self.waits = replace(done), waits
        return line

    def _memory(self) -> int:
        """Return the peak memory of this worker in bytes: of its GPU, or else of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux


def _number(value: float | None) -> float | None:
    """Return `value`, or None if it is nan or infinite, which JSON cannot represent."""
    return value if value is not None and math.isfinite(value) else None
