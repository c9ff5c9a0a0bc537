"""Prompt texts, one file each, and the one way in which a document enters a prompt: as marked data.

A document is untrusted. It may claim to be an instruction, close its own markers, imitate roles or
spell a model's special tokens. So it stands between two marker lines with a key that depends on the
seed and the document's id, and `neutralise` breaks whatever in it looks like a marker or a special
token. What is broken stays readable: a space is put in, nothing but invisible characters is removed.
"""

from __future__ import annotations

import re
import string
from functools import cache
from importlib import resources

from safety_ray.core.records import stable_hash

# Characters that show nothing but could hide a marker from a pattern and not from a tokenizer.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
_ANGLE = "<>＜＞"
# Joiners are letters' companions in some scripts, so they stay; between two brackets they hide a run.
_RUN = re.compile(f"(?<=[{_ANGLE}])[\u200c\u200d]*(?=[{_ANGLE}])")
_TOKEN = re.compile(
    r"(?<=[<＜])(?=[/|｜]?[^\s<>＜＞]{1,60}[>＞])"
)  # <s>, <|im_end|>, <start_of_turn>, <think>
_BRACKET = re.compile(r"(?<=\[)(?=/?[A-Z][A-Z_]{2,30}\])")  # [INST], [/INST], [TOOL_CALLS]


@cache
def text(name: str) -> str:
    """The text of the prompt file `name`."""
    return (resources.files(__package__) / f"{name}.txt").read_text("utf-8").strip()


@cache
def _parts(name: str) -> tuple[string.Template, string.Template]:
    system, user = text(name).removeprefix("[system]\n").split("\n[user]\n")
    return string.Template(system), string.Template(user)


def messages(name: str, document: str, *, seed: int, id: str, **fields: str) -> list[dict[str, str]]:
    """The chat messages of prompt `name` about `document`; `fields` fill its other placeholders."""
    key = document_key(seed, id)
    values = {**fields, "key": key, "document": delimited(document, key)}
    return [
        {"role": role, "content": part.substitute(values)}
        for role, part in zip(("system", "user"), _parts(name), strict=True)
    ]


def document_key(seed: int, id: str) -> str:
    """The key of the marker lines around the document `id`: 16 hexadecimal digits."""
    return f"{stable_hash(seed, 'delimiter', id):016x}"


def delimited(document: str, key: str) -> str:
    """The document between its two marker lines, with nothing in it that could pass for one."""
    body = neutralise(document)
    body = re.sub(re.escape(key), "[key]", body, flags=re.IGNORECASE)
    return f"<<<DOCUMENT {key}>>>\n{body}\n<<<END OF DOCUMENT {key}>>>"


def neutralise(document: str) -> str:
    """`document` with runs of angle brackets and everything shaped like a special token broken by a space."""
    document = _INVISIBLE.sub("", document)
    document = _RUN.sub(" ", document)
    document = _TOKEN.sub(" ", document)
    return _BRACKET.sub(" ", document)
