"""Which steps are bad, and what becomes of them.

A bad step leaves the weights as they are. What tells one is the same in every worker: losses and
gradient lengths are sums over all of them, so all decide alike without asking.
"""

from __future__ import annotations

import math
import statistics

from safety_ray.core.errors import UserError
from safety_ray.train.checkpoint import Progress
from safety_ray.train.settings import TrainingConfig
from safety_ray.train.step import Seen

_WINDOW, _ENOUGH = 64, 16  # losses the median is taken of, and how few will do


class Diverged(UserError):
    """The loss is no longer what training can go on with; every worker sees it at the same step."""


class Guard:
    """Judges each step; its memory is in `done`, which is part of every checkpoint."""

    def __init__(self, config: TrainingConfig, done: Progress, steps: int) -> None:
        self.config, self.done, self.steps = config, done, steps

    def judge(self, seen: Seen, rate: float) -> str:
        """Why the step that follows `done.step` must not be taken; empty where it may.

        Raises Diverged where bad steps end the run, or too many follow each other.
        """
        reason = self._reason(seen)
        if not reason:
            self.done.recent = [*self.done.recent, seen.loss][-_WINDOW:]
            self.done.bad_in_a_row = 0
            return ""
        self.done.skipped += 1
        self.done.bad_in_a_row += 1
        many = self.done.bad_in_a_row >= self.config.max_bad_steps
        if self.config.on_bad_step == "stop" or many:
            before = f", and {self.done.bad_in_a_row} steps were left out in a row" if many else ""
            raise Diverged(
                f"{reason} at step {self.done.step + 1} of {self.steps}{before}, at a learning rate of "
                f"{rate:.2g}; take a lower lr, a longer warmup_share or precision=fp32, and another output."
            )
        return reason

    def _reason(self, seen: Seen) -> str:
        if not math.isfinite(seen.loss):
            return f"the loss became {seen.loss}"
        if not math.isfinite(seen.length):
            return f"the gradient's length became {seen.length}"
        recent = self.done.recent
        if self.config.spike and len(recent) >= _ENOUGH:
            usual = statistics.median(recent)
            if seen.loss > self.config.spike * usual:
                return f"the loss leapt to {seen.loss:.3f}, usual is {usual:.3f},"
        return ""
