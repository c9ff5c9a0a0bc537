"""Rows for training and measurement: splits, sentence windows and needle-in-haystack texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES, stable_hash

Row = dict[str, Any]
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
UNNAMED = "labelled"
"""source of rows without one"""
HARMLESS = 2
"""maximum `label_max` of the texts of a haystack"""
HARM = 3
"""minimum label of a needle"""
NEEDLE_CHARACTERS = 400
"""maximum length of a needle; a longer text fills a chunk"""
HAYSTACK_CHARACTERS = (200, 400, 700, 1000)
"""lengths of haystacks; the last fills a chunk of 256 tokens"""
_MAX_TEXTS = 20  # of a haystack


def complete(rows: Iterable[Row], where: str) -> list[Row]:
    """Return the rows with `label_max`, `source` and `family`.

    Raises UserError for a row without text, or with a label that is no integer from 0 to 5.
    """
    completed = []
    for row in rows:
        low = row["label"]
        high = low if row.get("label_max") is None else row["label_max"]
        if not isinstance(row["text"], str):
            raise UserError(f"{where}: row '{row['id']}' has no text.")
        if not all(type(label) is int for label in (low, high)) or not 0 <= low <= high < SCORES:
            label = low if high == low else f"{low} and label_max {high}"
            raise UserError(
                f"{where}: row '{row['id']}' has label {label}; a label is an integer from 0 to 5, and the "
                "optional label_max is an integer from label to 5."
            )
        family, source = row.get("family") or row["id"], row.get("source") or UNNAMED
        completed.append({**row, "label_max": high, "source": source, "family": family})
    return completed


def split(rows: list[Row], per_family: int, heldout_share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Return training and held-out rows: at most `per_family` of a family, each family on one side.

    The `split` of a row is kept, and decides for rows of its family that have none. Of the other families,
    `heldout_share` of each source and label is held out. Raises UserError if a side has no rows.
    """
    family_rows: dict[str, int] = {}
    kept: list[Row] = []
    groups: dict[str, tuple[Any, ...]] = {}
    decided: dict[str, str] = {}
    for row in rows:
        if row.get("split"):
            decided.setdefault(row["family"], row["split"])
    for row in rows:
        family_rows[row["family"]] = family_rows.get(row["family"], 0) + 1
        if per_family and family_rows[row["family"]] > per_family:
            continue
        kept.append(row)
        if row["family"] not in decided:
            groups.setdefault(row["family"], (row["source"], row["label"], row["label_max"]))
    strata: dict[tuple[Any, ...], list[str]] = {}
    for family, stratum in groups.items():
        strata.setdefault(stratum, []).append(family)
    heldout_families: set[str] = set()
    for families in strata.values():
        families.sort(key=lambda family: stable_hash(seed, "fit", family))
        heldout_families.update(families[: round(heldout_share * len(families))])
    train: list[Row] = []
    heldout: list[Row] = []
    for row in kept:
        side = row.get("split") or decided.get(row["family"])
        is_heldout = side == "heldout" if side else row["family"] in heldout_families
        (heldout if is_heldout else train).append(row)
    if not train or not heldout:
        raise UserError(
            f"there are {len(train)} training texts and {len(heldout)} held-out texts, but both are needed: "
            "give more labelled texts or another heldout_share."
        )
    return train, heldout


def sentence_windows(rows: list[Row], number: int, seed: int) -> list[Row]:
    """Return `number` windows of one to three sentences of each long text, with the label of the text."""
    windows = []
    for row in rows:
        sentences = _SENTENCE.split(row["text"])
        for n in range(number if len(sentences) > 3 else 0):
            size = 1 + stable_hash(seed, row["id"], n, "size") % 3
            start = stable_hash(seed, row["id"], n, "at") % (len(sentences) - size + 1)
            windows.append({**row, "text": " ".join(sentences[start : start + size])})
    return windows


def insert_needles(rows: list[Row], max_pairs: int, seed: int) -> list[tuple[Row, Row]]:
    """Insert up to `max_pairs` short harmful texts (needles) into harmless texts of `rows` (haystacks).

    Return pairs (haystack with needle, haystack). The first has the label and source of the needle;
    `around` has the sources of the haystack. Empty if `rows` have no needles or no harmless texts.
    """
    harmful_sources = {row["source"] for row in rows if row["label"] > 0}
    safe = [row for row in rows if row["label"] == 0 and row["label_max"] <= HARMLESS]
    harmless = [row for row in safe if row["source"] not in harmful_sources] or safe
    needles = [row for row in rows if row["label"] >= HARM and len(row["text"]) <= NEEDLE_CHARACTERS]
    needles.sort(key=lambda row: stable_hash(seed, "bury", row["id"]))
    return [_insert(needle, harmless, seed) for needle in needles[:max_pairs]] if harmless else []


def _insert(needle: Row, harmless: list[Row], seed: int) -> tuple[Row, Row]:
    sample = partial(stable_hash, seed, "bury", needle["id"])
    before: list[str] = []
    after: list[str] = []
    around: set[str] = set()
    missing = HAYSTACK_CHARACTERS[sample("room") % len(HAYSTACK_CHARACTERS)]
    for n in range(_MAX_TEXTS):
        if missing <= 0:
            break
        row = harmless[sample("calm", n) % len(harmless)]
        text = row["text"][:missing]
        (before if sample("side", n) % 2 else after).append(text)
        around.add(row["source"])
        missing -= len(text)
    common = {**needle, "around": sorted(around)}
    with_needle = {**common, "text": "\n".join([*before, needle["text"], *after])}
    haystack = {**common, "text": "\n".join([*before, *after]), "label": 0, "label_max": HARMLESS}
    return with_needle, haystack
