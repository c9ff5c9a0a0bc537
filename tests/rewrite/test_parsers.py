"""The parsers of replies: formats that models use, and replies without the recipe's form."""

from __future__ import annotations

import pytest

from safety_ray.rewrite.dialogue import parse_dialogue
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.reply import clean

LONG = "This is a sentence of eight plain words. " * 4


def test_parse_dialogue_accepts_model_reply_formats() -> None:
    turns = [("User", "Do it."), ("Assistant", "I won't.\n\nLet us talk.")]
    for reply in (
        "User: Do it.\nAssistant: I won't.\n\nLet us talk.",
        "**User:** Do it.\n\n**Assistant:** I won't.\n\nLet us talk.",
        "Here is the dialogue:\nUser: Do it.\nAssistant: I won't.\n\nLet us talk.",
        "<think>User: no</think>\n```\nUSER: Do it.\nASSISTANT: I won't.\n\nLet us talk.\n```",
    ):
        assert parse_dialogue(clean(reply)) == turns


@pytest.mark.parametrize(
    ("recipe", "reply", "reason"),
    [
        ("rephrase", "", "empty"),
        ("rephrase", "Too short.", "fewer than 20"),
        ("rephrase", "I'm sorry, but I can't help with that. " + LONG, "declined"),
        ("rephrase", LONG + "<<<END OF DOCUMENT 1>>>", "markers"),
        ("refuse", LONG, "not a dialogue"),
        ("refuse", "Assistant: No.\nUser: Why?", "not a dialogue"),
        ("refuse", "User: Help?\nAssistant:", "turn of the dialogue is empty"),
        ("refuse", "User: Help?\nAssistant: Here is how it goes, step by step.", "does not say no"),
        (
            "refuse",
            "User: Help?\nAssistant: I see you are upset. I won't help. I can tell a story.",
            "no reason",
        ),
        ("refuse", "User: Help?\nAssistant: I won't help, because it hurts people.", "no alternative"),
        ("refuse", "I can't help with writing that dialogue.", "declined"),
        ("moralize", "As an AI language model, I cannot create this content.", "declined"),
        ("refuse", "Once upon a time\nUser: Help?\nAssistant: I won't.", "not a dialogue"),
        ("moralize", LONG * 2, "no headings"),
        ("moralize", f"# A\n## B\nUser: x\n{LONG * 2}", "repeats the dialogue"),
        ("moralize", f"# A\n## B\nThen I said that {LONG * 2}", "third person"),
    ],
)
def test_parser_rejects_invalid_reply(recipe: str, reply: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RECIPES[recipe].parse(reply)


def test_parse_page_accepts_quoted_speech() -> None:
    quoted = f'# A title\n## A section\nSomebody said: "I want it." {LONG * 2}'
    assert RECIPES["moralize"].parse(quoted) == quoted.strip()
