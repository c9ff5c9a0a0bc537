"""What the endpoint tells Prometheus, through Ray's own metrics (each node's metrics port).

ray_safety_requests_total{mode, outcome}   answers; outcome: stop, length, content_filter, error, cancelled
ray_safety_p_tag{mode}                     histogram of each answer's highest P(tag)
ray_safety_searches_in_flight              searches under way
ray_safety_search_steps_total              steps of searches; its rate is steps per second
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ray.serve import metrics

# P(tag) is small where all is well; the paper's tags stand before 5 % of the words of unsafe text.
BOUNDARIES = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5]


class Metrics:
    """One replica's; Ray Serve adds the deployment, the replica and the application."""

    def __init__(self) -> None:
        self._requests = metrics.Counter(
            "safety_requests", description="Answers by mode and outcome.", tag_keys=("mode", "outcome")
        )
        self._p_tag = metrics.Histogram(
            "safety_p_tag",
            description="Highest probability of the harmfulness tag in an answer.",
            boundaries=BOUNDARIES,
            tag_keys=("mode",),
        )
        self._in_flight = metrics.Gauge("safety_searches_in_flight", description="Searches under way.")
        self._steps = metrics.Counter("safety_search_steps", description="Steps of searches.")
        self.searches = 0

    def answer(self, mode: str, outcome: str, p_tags: Sequence[float]) -> None:
        """Count an answer that has ended, whose tokens had these P(tag)."""
        self._requests.inc(1, {"mode": mode, "outcome": outcome})
        if p_tags:
            self._p_tag.observe(max(p_tags), {"mode": mode})

    def step(self) -> None:
        self._steps.inc(1)
        self.refresh()

    def refresh(self) -> None:
        """Say how many searches are under way: Ray forgets a gauge that was not set since its last report."""
        self._in_flight.set(self.searches)

    @contextmanager
    def searching(self, number: int) -> Iterator[None]:
        """While so many searches are under way."""
        self.searches += number
        self.refresh()
        try:
            yield
        finally:
            self.searches -= number
            self.refresh()
