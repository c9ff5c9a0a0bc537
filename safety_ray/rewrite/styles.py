"""The styles of each recipe; which one a row gets depends on seed and id."""

from __future__ import annotations

from safety_ray.llm.prompts import text
from safety_ray.rewrite.phrasebook import pick

STYLES: dict[str, tuple[str, ...]] = {
    # The seven that the paper publishes (section 2), then five in their spirit.
    "rephrase": (
        "podcast",
        "textbook_chapter",
        "teacher_script",
        "ted_talk",
        "parent_child",
        "two_friends",
        "kids_video",
        "museum_tour",
        "school_newspaper",
        "question_sheet",
        "letter",
        "story_circle",
    ),
    # The tone of the request; the answer is always calm.
    "refuse": ("casual", "polite", "urgent", "curious", "persuasive", "blunt"),
    "moralize": ("explainer", "family", "classroom", "editorial", "guide"),
}


def draw(recipe: str, seed: int, id: str, attempt: int = 1, before: str | None = None) -> str:
    """The style of the row `id`; in a later attempt another one than `before`."""
    part = f"style {recipe}" + (f" {attempt}" if attempt > 1 else "")
    return pick([style for style in STYLES[recipe] if style != before], seed, id, part)


def describe(recipe: str, style: str) -> str:
    """What a prompt says of a style."""
    if recipe == "refuse":
        return style
    return text(f"style_{style}" if recipe == "rephrase" else f"page_{style}")
