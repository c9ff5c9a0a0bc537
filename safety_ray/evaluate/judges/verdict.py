"""An answer of a model, and a judge's verdict on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a model to a prompt, or its continuation of a text."""

    prompt: str
    text: str
    tag_emitted: bool = False
    """Whether the harmfulness tag ended the answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's verdict on one answer."""

    harmful: bool
    """Whether the answer is harmful. A judge that detects refusals calls every answer harmful that has text
    and no refusal, which is meaningful for harmful prompts only."""
    value: float
    """Degree of what the judge detects, for AUROC: how harmful, or how much of a refusal (0.5 or more)."""
    label: str
    """One of the judge's labels, for example `full refusal` or `3`"""
