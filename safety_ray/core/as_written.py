"""Keep the values of string settings as they are written.

YAML reads `off` as false, `007` as 7 and `1e3` as 1000.0. A setting of type str means the text, so such
values are quoted before the yaml is loaded. The types are those of a config class; a field of type
dict[str, Any] names its types with `setting(..., of=...)`.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from safety_ray.core.errors import UserError

Type = Any
"""A type hint: a class, list[str], str | None, ..., or None for any type"""

_NULL, _MERGE, _STRING = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"


def type_of(cls: Type, key: str) -> Type:
    """Return the type of the setting `key` of `cls`, or None. Dots precede the names of nested settings."""
    kind: Type = cls
    for name in re.findall(r"[^.\[\]]+", key):
        kind = _inner(kind, name)
    return kind


@functools.cache
def field_types(cls: type) -> dict[str, Type]:
    """Return the type of each field of a dataclass; computed once, because Python parses the annotations."""
    return typing.get_type_hints(cls)


def is_text(kind: Type) -> bool:
    """Return whether `kind` has only strings, or strings and None."""
    origin: Any = typing.get_origin(kind)
    if origin is typing.Literal:
        return all(isinstance(value, str) for value in typing.get_args(kind))
    if origin in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return all(map(is_text, members))
    return kind is str


def quoted(text: str, kind: Type) -> str:
    """Return the YAML `text` of a value of type `kind`, with quotes around the values of string settings.

    Raises yaml.YAMLError if it is not valid YAML.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return text
    _quote(node, kind)
    stream = io.StringIO()
    yaml.serialize(node, stream, Dumper=yaml.SafeDumper, allow_unicode=True, width=float("inf"))
    return stream.getvalue()


def check(value: Any, kind: Type, where: str, key: str = "") -> None:
    """Raise UserError if a string setting has a value of another type, which YAML has read from its text."""
    if is_text(kind):
        if isinstance(value, bool | int | float):
            raise UserError(f"{where}: {key}={value!r} must be text: write the value in quotes.")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            check(inner, _inner(kind, str(name)), where, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for n, inner in enumerate(value):
            check(inner, _inner(kind, str(n)), where, f"{key}[{n}]")


def _inner(kind: Type, name: str) -> Type:
    """Return the type of the field, key or element `name` of `kind`."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        for field in dataclasses.fields(kind):
            if field.name.removesuffix("_") == name:
                return field.metadata.get("of") or field_types(kind)[field.name]
        return None
    origin: Any = typing.get_origin(kind)
    if origin in (list, dict):
        return typing.get_args(kind)[-1]
    return None


def _quote(node: yaml.Node, kind: Type) -> None:
    if isinstance(node, yaml.ScalarNode):
        if is_text(kind) and node.style is None and node.tag != _NULL:
            node.tag, node.style = _STRING, '"'
    elif isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            _quote(inner, _inner(kind, "0"))
    elif isinstance(node, yaml.MappingNode):
        for name, inner in node.value:
            if name.tag == _MERGE:  # `<<: *defaults` has the keys of this mapping
                _quote(inner, kind)
                continue
            if kind not in (None, Any):  # the name of a setting, or a key of dict[str, ...]
                _quote(name, str)
            _quote(inner, _inner(kind, str(name.value)))
