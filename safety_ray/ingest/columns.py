"""Map the fields of other schemas to the columns of a document."""

from __future__ import annotations

import difflib
from typing import Any

from safety_ray.core.errors import UserError

ColumnMap = dict[str, str]
"""column of a document → field of a record; dots separate nested fields"""


def check_targets(columns: ColumnMap, known: list[str]) -> None:
    """Raise UserError if a key of the map is not a column of a document, or if its field is empty."""
    for target, field in columns.items():
        if target not in known:
            raise UserError(
                f"columns.{target} is not a column of a document; the nearest is "
                f"'{nearest(target, known)}'; choose from {', '.join(known)}."
            )
        if not isinstance(field, str) or not field.strip():
            raise UserError(f"columns.{target}={field!r} must be the name of a field.")


def check_fields(columns: ColumnMap, fields: set[str], where: str) -> None:
    """Raise UserError if no record has a field of the map, or if there is no field for the text."""
    for target, field in columns.items():
        if field not in fields:
            raise UserError(
                f"{where} has no field '{field}', which columns.{target} names; "
                f"the nearest is '{nearest(field, sorted(fields))}'."
            )
    if "text" not in columns and "text" not in fields:
        top = sorted(name for name in fields if "." not in name)
        raise UserError(f"{where} has no field 'text'; it has {', '.join(top)}. Set columns.text=<field>.")


def nearest(name: str, known: list[str]) -> str:
    """Return the most similar of `known`; the same name in a nested field (`metadata.url`) comes first."""
    same_name = [field for field in known if field.split(".")[-1] == name.split(".")[-1]]
    return (same_name or difflib.get_close_matches(name, known, n=1, cutoff=0.0))[0]


def has_field(value: dict[str, Any], field: str) -> bool:
    """Return whether a record has the field, whose name has dots if it is nested."""
    head, _, tail = field.partition(".")
    inner = value.get(head) if tail else None
    return field in value or (isinstance(inner, dict) and has_field(inner, tail))


def field_names(value: dict[str, Any], prefix: str = "") -> set[str]:
    """Return all field names of a record; the names of nested fields have dots."""
    names: set[str] = set()
    for key, inner in value.items():
        names.add(f"{prefix}{key}")
        if isinstance(inner, dict):
            names |= field_names(inner, f"{prefix}{key}.")
    return names


def renamed(value: dict[str, Any], columns: ColumnMap) -> dict[str, Any]:
    """Return the record with the mapped fields under the names of a document's columns.

    A mapped field is removed from its old name. An unmapped field with the name of a mapped column gets an
    underscore after its name, so that it is kept and not taken for the column.
    """
    if not columns:
        return value
    rest, mapped = dict(value), {}
    for target, field in columns.items():
        mapped[target], _ = _without(value, field)  # two columns may have the same field
        _, rest = _without(rest, field)
    return {f"{key}_" if key in mapped else key: inner for key, inner in rest.items()} | mapped


def _without(value: dict[str, Any], field: str) -> tuple[Any, dict[str, Any]]:
    """Return the value of `field`, and the record without it. A name that contains a dot precedes a path."""
    if field in value:
        return value[field], {key: inner for key, inner in value.items() if key != field}
    head, _, tail = field.partition(".")
    inner = value.get(head)
    if not tail or not isinstance(inner, dict):
        return None, value
    field_value, rest = _without(inner, tail)
    others = {key: other for key, other in value.items() if key != head}
    return field_value, {**others, head: rest} if rest else others
