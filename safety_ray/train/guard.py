"""Detection of bad steps, which are not applied to the weights.

The device decides whether a step is applied (step.py), by a limit that is known before the step. Losses and
gradient norms are sums over all workers, so all workers decide alike without communication.
"""

from __future__ import annotations

import math
import statistics

from safety_ray.core.errors import UserError
from safety_ray.train.checkpoint import Progress
from safety_ray.train.settings import TrainingConfig
from safety_ray.train.step import StepResult

_WINDOW, _MIN_LOSSES = 64, 16  # largest and smallest number of losses that the median is computed from


class Diverged(UserError):
    """Training cannot continue because of its loss. Every worker raises this at the same step."""


class Guard:
    """Judges each step. Its state is in `done`, which is part of every checkpoint."""

    def __init__(self, config: TrainingConfig, done: Progress, steps: int) -> None:
        self.config, self.done, self.steps = config, done, steps

    def limit(self) -> float:
        """Return the highest loss with which the next step is applied, by the losses read so far."""
        if not self.config.spike or len(self.done.recent) < _MIN_LOSSES:
            return math.inf
        return self.config.spike * statistics.median(self.done.recent)

    def judge(self, result: StepResult, rate: float) -> str:
        """Return the reason why the step after `done.step` was not applied; empty if it was.

        Raises Diverged if `on_bad_step` is "stop" or `max_bad_steps` steps in a row are bad.
        """
        reason = self._reason(result)
        if not reason:
            self.done.recent = [*self.done.recent, result.loss][-_WINDOW:]
            self.done.bad_in_a_row = 0
            return ""
        self.done.skipped += 1
        self.done.bad_in_a_row += 1
        too_many = self.done.bad_in_a_row >= self.config.max_bad_steps
        if self.config.on_bad_step == "stop" or too_many:
            before = f", and {self.done.bad_in_a_row} steps were skipped in a row" if too_many else ""
            raise Diverged(
                f"{reason} at step {self.done.step + 1} of {self.steps}{before}, at a learning rate of "
                f"{rate:.2g}; use a lower lr, a higher warmup_share or precision=fp32, and another output."
            )
        return reason

    def _reason(self, result: StepResult) -> str:
        if result.applied:
            return ""
        if not math.isfinite(result.loss):
            return f"the loss became {result.loss}"
        if not math.isfinite(result.grad_norm):
            return f"the gradient norm became {result.grad_norm}"
        median = statistics.median(self.done.recent)
        return f"the loss rose to {result.loss:.3f}, from a median of {median:.3f},"
