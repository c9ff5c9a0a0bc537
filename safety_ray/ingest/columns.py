"""Other schemas: which of a record's fields is the text, which the id, which the address."""

from __future__ import annotations

import difflib
from typing import Any

from safety_ray.core.errors import UserError

ColumnMap = dict[str, str]
"""from a document's column to the field that it is read from; dots lead into nested fields"""


def check_targets(columns: ColumnMap, known: list[str]) -> None:
    """UserError where a key of the map is no column of a document, or its field is empty."""
    for target, field in columns.items():
        if target not in known:
            raise UserError(
                f"columns.{target} is no column of a document; the nearest is "
                f"'{nearest(target, known)}' (they are {', '.join(known)})."
            )
        if not isinstance(field, str) or not field.strip():
            raise UserError(f"columns.{target}={field!r} must be the name of a field.")


def check_fields(columns: ColumnMap, fields: set[str], where: str) -> None:
    """UserError where the map names a field that no record has, or there is nothing to be the text."""
    for target, field in columns.items():
        if field not in fields:
            raise UserError(
                f"'{where}' has no field '{field}', which columns.{target} names; "
                f"the nearest is '{nearest(field, sorted(fields))}'."
            )
    if "text" not in columns and "text" not in fields:
        top = sorted(name for name in fields if "." not in name)
        raise UserError(
            f"'{where}' has no field 'text'; it has {', '.join(top)}. Say which is the text: columns.text=..."
        )


def nearest(name: str, known: list[str]) -> str:
    """The most alike of `known`; one whose last part is `name` comes first (`url`, `metadata.url`)."""
    same = [one for one in known if one.split(".")[-1] == name.split(".")[-1]]
    return (same or difflib.get_close_matches(name, known, n=1, cutoff=0.0))[0]


def field_names(value: dict[str, Any], prefix: str = "") -> set[str]:
    """All names of a record's fields, those of nested ones with a dot."""
    names: set[str] = set()
    for key, inner in value.items():
        names.add(f"{prefix}{key}")
        if isinstance(inner, dict):
            names |= field_names(inner, f"{prefix}{key}.")
    return names


def renamed(value: dict[str, Any], columns: ColumnMap) -> dict[str, Any]:
    """The record with its fields under a document's names; `value` itself stays as it is.

    A field that the map reads leaves its old place. A field of its own that has the name of a mapped
    column moves to that name with an underscore, so that it is kept and cannot be taken for the column.
    """
    if not columns:
        return value
    rest, taken = dict(value), {}
    for target, field in columns.items():
        taken[target], rest = _without(rest, field)
    return {f"{key}_" if key in taken else key: inner for key, inner in rest.items()} | taken


def _without(value: dict[str, Any], field: str) -> tuple[Any, dict[str, Any]]:
    """What lies at `field`, and the record without it; a name with a dot of its own comes before a path."""
    if field in value:
        return value[field], {key: inner for key, inner in value.items() if key != field}
    head, _, tail = field.partition(".")
    inner = value.get(head)
    if not tail or not isinstance(inner, dict):
        return None, value
    found, rest = _without(inner, tail)
    left = {key: one for key, one in value.items() if key != head}
    return found, {**left, head: rest} if rest else left
