"""Read announced preemptions without Ray Train's public call, which synchronizes all workers.

`ray.train.get_preemption_info` (Ray 2.60) waits for every worker in each step. The training loop already
makes the workers agree, so it reads the value that Ray Train keeps for this worker.
"""

from __future__ import annotations


def preempted_nodes() -> frozenset[str]:
    """Return the ids of this training's nodes that will be preempted. Call it in a Ray Train worker."""
    from ray.train.v2._internal.execution.context import get_train_context

    info = get_train_context().preemption_context.preemption_info
    return frozenset(info.preempted_node_ids) if info else frozenset()
