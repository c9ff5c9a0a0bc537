"""Metrics of the data stages and of training for Prometheus, exported by Ray on each node's metrics port.

    ray_safety_stage_rows_total{stage, part}        rows written, rejected ones included; steps of a training
    ray_safety_stage_rejected_total{stage, part}    rejected rows
    ray_safety_stage_tokens_total{stage, part}      tokens that an engine generated, the classifier read or a
                                                    training was given
    ray_safety_stage_seconds_total{stage, part}     time spent writing
    ray_safety_stage_cost_total{stage, part}        cost, if prices are set (see cost.py)
    ray_safety_stage_rows_expected{stage, part}     rows to write in all, if known

They count what the driver sees in the output folder, in this run, so a repeated task does not count twice;
only the classifier's tokens are counted by its actors. Queues and allocated GPUs are Ray's own metrics:
ray_data_*{dataset="<stage>-<part>_..."} and ray_node_gpus_utilization. deploy/grafana.json shows all of them.
"""

from __future__ import annotations

from typing import Any

from safety_ray.core import cluster

COUNTERS = {
    "rows": "Rows written by a stage, or steps of a training.",
    "rejected": "Rows that a stage rejected.",
    "tokens": "Tokens that an engine generated for a stage, or that a training read.",
    "seconds": "Seconds that a stage spent writing.",
    "cost": "Cost of the cluster while a stage wrote.",
}
TAGS = ("stage", "part")
_made: dict[str, Any] = {}


class StageMetrics:
    """Counters of one write of a stage. Without Ray, nothing is counted."""

    def __init__(self, stage: str, part: str, expected: int | None) -> None:
        self.tags, self.expected = {"stage": stage, "part": part}, expected
        self.last: dict[str, float] = {}

    def update(self, **totals: float) -> None:
        """Set the counters to `totals` of this write. Totals of the first call are those of earlier runs."""
        if not self.last:  # what an interrupted run has written is not counted again
            self.last = {
                name: 0.0 if name in ("seconds", "cost") else total for name, total in totals.items()
            }
        if not cluster.is_running():
            return
        if self.expected is not None:
            _metric("rows_expected").set(self.expected, self.tags)
        for name, total in totals.items():
            more = total - self.last.get(name, 0.0)
            if more > 0:
                _metric(name).inc(more, self.tags)
                self.last[name] = total


def add(name: str, number: float, *, stage: str, part: str) -> None:
    """Add `number` to a counter from a task or an actor."""
    if number > 0 and cluster.is_running():
        _metric(name).inc(number, {"stage": stage, "part": part})


def _metric(name: str) -> Any:
    """Return the metric `safety_stage_<name>` of this process."""
    from ray.util.metrics import Counter, Gauge

    if name not in _made:
        full = f"safety_stage_{name}"
        if name in COUNTERS:
            _made[name] = Counter(full, description=COUNTERS[name], tag_keys=TAGS)
        else:
            _made[name] = Gauge(full, description="Rows that a stage will write.", tag_keys=TAGS)
    return _made[name]
