"""A dialogue of `User: ...` and `Assistant: ...`, as refusals are stored."""

from __future__ import annotations

import re

USER, ASSISTANT = "User", "Assistant"
TURN = re.compile(r"^\W{0,3}(user|assistant)\W{0,3}:\**[ \t]*", re.I | re.M)
"""beginning of a turn, also in Markdown"""


def parse_dialogue(text: str) -> list[tuple[str, str]]:
    """Return (role, utterance) of each turn. Raises ValueError unless User and Assistant alternate.

    The user has the first turn and the assistant the last.
    """
    preface, *fields = TURN.split(text)
    dialogue = [
        (USER if role.lower() == "user" else ASSISTANT, utterance.strip().strip("*").strip())
        for role, utterance in zip(fields[::2], fields[1::2], strict=True)
    ]
    roles = [role for role, _ in dialogue]
    if preface.strip() or not roles or roles != [USER, ASSISTANT] * (len(roles) // 2):
        raise ValueError("the reply is not a dialogue in which User and Assistant alternate")
    if not all(utterance for _, utterance in dialogue):
        raise ValueError("a turn of the dialogue is empty")
    return dialogue


def format_dialogue(dialogue: list[tuple[str, str]]) -> str:
    """Return the dialogue as text, with an empty line between turns."""
    return "\n\n".join(f"{role}: {utterance}" for role, utterance in dialogue)
