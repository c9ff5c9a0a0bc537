"""Prompt texts, one file each, and the insertion of documents into prompts as delimited data.

A document is untrusted. It may contain instructions, imitate the delimiters or roles, or spell special
tokens of a model. It is therefore placed between two marker lines with a key that depends on the seed and
the document's id, and `neutralise` breaks everything in it that looks like a marker or a special token. The
text stays readable: a space is inserted, and only invisible characters are removed.
"""

from __future__ import annotations

import re
import string
from functools import cache
from importlib import resources

from safety_ray.core.records import stable_hash

# Invisible characters, which could hide a marker from a pattern but not from a tokenizer.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
_ANGLE = "<>＜＞"
# Joiners are needed in some scripts, so they stay, but between two brackets they would hide a run.
_RUN = re.compile(f"(?<=[{_ANGLE}])[\u200c\u200d]*(?=[{_ANGLE}])")
_TOKEN = re.compile(
    r"(?<=[<＜])(?=[/|｜]?[^\s<>＜＞]{1,60}[>＞])"
)  # <s>, <|im_end|>, <start_of_turn>, <think>
_BRACKET = re.compile(r"(?<=\[)(?=/?[A-Z][A-Z_]{2,30}\])")  # [INST], [/INST], [TOOL_CALLS]


@cache
def text(name: str) -> str:
    """Return the text of the prompt file `name`."""
    return (resources.files(__package__) / f"{name}.txt").read_text("utf-8").strip()


@cache
def _templates(name: str) -> tuple[string.Template, string.Template]:
    system, user = text(name).removeprefix("[system]\n").split("\n[user]\n")
    return string.Template(system), string.Template(user)


def messages(name: str, document: str, *, seed: int, id: str, **fields: str) -> list[dict[str, str]]:
    """Return the chat messages of the prompt `name` for `document`; `fields` fill other placeholders."""
    key = document_key(seed, id)
    values = {**fields, "key": key, "document": delimited(document, key)}
    return [
        {"role": role, "content": template.substitute(values)}
        for role, template in zip(("system", "user"), _templates(name), strict=True)
    ]


def document_key(seed: int, id: str) -> str:
    """Return the key of the marker lines around the document `id`: 16 hexadecimal digits."""
    return f"{stable_hash(seed, 'delimiter', id):016x}"


def delimited(document: str, key: str) -> str:
    """Return the document between its marker lines, without anything that looks like a marker."""
    body = neutralise(document)
    body = re.sub(re.escape(key), "[key]", body, flags=re.IGNORECASE)
    return f"<<<DOCUMENT {key}>>>\n{body}\n<<<END OF DOCUMENT {key}>>>"


def neutralise(document: str) -> str:
    """Insert spaces into runs of angle brackets and everything with the form of a special token."""
    document = _INVISIBLE.sub("", document)
    document = _RUN.sub(" ", document)
    document = _TOKEN.sub(" ", document)
    return _BRACKET.sub(" ", document)
