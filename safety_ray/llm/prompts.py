"""Prompts about documents. A document enters a prompt as delimited, untrusted data.

A document may claim to be an instruction, close its own markers, imitate roles or spell a model's special
tokens. So it is placed between two marker lines with a key that depends on the seed and the document's id,
and `neutralise` inserts a space into everything that looks like a marker or a special token. The document
stays readable: only invisible characters are removed.
"""

from __future__ import annotations

import re
import string
from importlib.resources.abc import Traversable
from typing import NamedTuple

from safety_ray.core.records import stable_hash

# Invisible characters could hide a marker from a pattern, but not from a tokenizer.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
_ANGLE = "<>＜＞"
# Some scripts need joiners between letters, so only those between two brackets are removed.
_RUN = re.compile(f"(?<=[{_ANGLE}])[\u200c\u200d]*(?=[{_ANGLE}])")
_TOKEN = re.compile(
    r"(?<=[<＜])(?=[/|｜]?[^\s<>＜＞]{1,60}[>＞])"
)  # <s>, <|im_end|>, <start_of_turn>, <think>
_BRACKET = re.compile(r"(?<=\[)(?=/?[A-Z][A-Z_]{2,30}\])")  # [INST], [/INST], [TOOL_CALLS]


class Prompt(NamedTuple):
    """The system and the user message of a prompt, with the placeholders `$key`, `$document` and others."""

    system: string.Template
    user: string.Template


def read_text(folder: Traversable, name: str) -> str:
    """Return the text of a file, without white space at its ends."""
    return (folder / name).read_text("utf-8").strip()


def read_prompt(folder: Traversable, name: str = "prompt.txt") -> Prompt:
    """Read a prompt file: a line `[system]`, the system message, a line `[user]`, the user message."""
    system, user = read_text(folder, name).removeprefix("[system]\n").split("\n[user]\n")
    return Prompt(string.Template(system), string.Template(user))


def messages(prompt: Prompt, document: str, *, seed: int, id: str, **fields: str) -> list[dict[str, str]]:
    """Return the chat messages of `prompt` about `document`; `fields` fill the other placeholders."""
    key = document_key(seed, id)
    values = {**fields, "key": key, "document": delimited(document, key)}
    return [
        {"role": "system", "content": prompt.system.substitute(values)},
        {"role": "user", "content": prompt.user.substitute(values)},
    ]


def document_key(seed: int, id: str) -> str:
    """Return the key of the marker lines around the document `id`: 16 hexadecimal digits."""
    return f"{stable_hash(seed, 'delimiter', id):016x}"


def delimited(document: str, key: str) -> str:
    """Return the document between its two marker lines, without anything that could pass for a marker."""
    body = neutralise(document)
    body = re.sub(re.escape(key), "[key]", body, flags=re.IGNORECASE)
    return f"<<<DOCUMENT {key}>>>\n{body}\n<<<END OF DOCUMENT {key}>>>"


def neutralise(document: str) -> str:
    """Insert a space into runs of angle brackets and into everything that has the form of a special token."""
    document = _INVISIBLE.sub("", document)
    document = _RUN.sub(" ", document)
    document = _TOKEN.sub(" ", document)
    return _BRACKET.sub(" ", document)
