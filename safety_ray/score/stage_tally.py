"""Total of the tokens computed by all scoring actors, in an actor that imports no model library."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Tally:
    """Tokens and positions computed by all actors of this run; repeated work counts again."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @classmethod
    def near(cls) -> Tally:
        """Create a tally on the driver's node, which cannot fail without ending the run."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(_Sums).options(num_cpus=0, scheduling_strategy=here).remote())

    def add(self, tokens: int, places: int) -> None:
        self.actor.add.remote(tokens, places)

    def record(self) -> dict[str, Any]:
        tokens, places = ray.get(self.actor.get.remote())
        return {
            "read": tokens,
            "computed": places,
            "padding": round(1 - tokens / places, 4) if places else 0.0,
        }


class _Sums:
    def __init__(self) -> None:
        self.sums = (0, 0)

    def add(self, tokens: int, places: int) -> None:
        self.sums = (self.sums[0] + tokens, self.sums[1] + places)

    def get(self) -> tuple[int, int]:
        return self.sums
