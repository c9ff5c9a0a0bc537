"""The passes of a rewriting run: one for each kind of task, document length and attempt."""

from __future__ import annotations

from dataclasses import dataclass

from safety_ray.rewrite.settings import RewriteConfig

DIRECT = "direct"
"""Kind of the tasks that rewrite documents"""


@dataclass(frozen=True, slots=True)
class Pass:
    """One attempt at the tasks of one kind and length."""

    kind: str
    """`direct`, or the name of a recipe that rewrites texts of another recipe"""
    long: bool
    attempt: int
    template: bool = False
    """whether the template writes what the engine does not"""

    @property
    def part(self) -> str:
        """Name of the folders that the pass writes."""
        suffixes = "_long" * self.long + "_template" * self.template
        return f"{self.kind}{suffixes}{f'_{self.attempt}' * (self.attempt > 1)}"


def passes_of(config: RewriteConfig) -> list[Pass]:
    """Return all passes that a run may consist of, in their order."""
    kinds, attempts = (DIRECT, *config.derived_recipes), range(1, config.attempts + 1)
    return [
        Pass(kind, long, n, template)
        for kind in kinds
        for template in config.writers
        for long in (False, True)
        for n in attempts
    ]
