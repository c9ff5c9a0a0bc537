"""Metrics of the endpoint for Prometheus, exported by Ray on each node's metrics port.

ray_safety_requests_total{mode, outcome}   answers; outcome: stop, length, content_filter, error, cancelled
ray_safety_p_tag{mode}                     histogram of each answer's highest P(tag); not of answers that were
                                           cancelled before it was known
ray_safety_searches_in_flight              running searches
ray_safety_search_steps_total              steps of searches; its rate is steps per second
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.serve import metrics

# P(tag) of harmless text is small; the paper puts tags before 5 % of the words of unsafe text.
BOUNDARIES = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5]


class Metrics:
    """Metrics of one replica; Ray Serve adds labels for the deployment, the replica and the application.

    While `enabled` is False, answers and steps are not counted: the guard's check at start is no traffic.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._requests = metrics.Counter(
            "safety_requests", description="Answers by mode and outcome.", tag_keys=("mode", "outcome")
        )
        self._p_tag = metrics.Histogram(
            "safety_p_tag",
            description="Highest probability of the harmfulness tag in an answer.",
            boundaries=BOUNDARIES,
            tag_keys=("mode",),
        )
        self._in_flight = metrics.Gauge("safety_searches_in_flight", description="Running searches.")
        self._steps = metrics.Counter("safety_search_steps", description="Steps of searches.")
        self._num_searches = 0

    def count_answer(self, mode: str, outcome: str, p_tag: float | None) -> None:
        """Count an answer that has ended; `p_tag` is the highest of its tokens, if it was measured."""
        if not self.enabled:
            return
        self._requests.inc(1, {"mode": mode, "outcome": outcome})
        if p_tag is not None:
            self._p_tag.observe(p_tag, {"mode": mode})

    def count_step(self) -> None:
        if self.enabled:
            self._steps.inc(1)
        self.refresh()

    def refresh(self) -> None:
        """Set the gauge of running searches again; Ray drops a gauge that is not set between two reports."""
        self._in_flight.set(self._num_searches)

    @contextmanager
    def count_searches(self, number: int) -> Iterator[None]:
        """Count `number` searches as running while the block runs."""
        self._num_searches += number
        self.refresh()
        try:
            yield
        finally:
            self._num_searches -= number
            self.refresh()
