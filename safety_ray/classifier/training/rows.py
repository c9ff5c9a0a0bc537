"""Which texts a classifier is fitted on and measured on, and the pieces and mixtures made of them."""

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
"""the source of rows that name none"""
CALM = 2
"""safe texts that are surely no worse are what harm is buried in"""
HARM = 3
"""texts from this level on are what is buried"""
BURIED_CHARACTERS = 400
"""a longer text fills a chunk by itself"""
AROUND = (200, 400, 700, 1000)
"""characters of calm text around a buried one; the last fills a chunk of 256 tokens"""


def complete(rows: Iterable[Row], where: str) -> list[Row]:
    """The rows with `label_max`, `source` and `family`; UserError for a label outside 0-5."""
    found = []
    for row in rows:
        low = row["label"]
        high = low if row.get("label_max") is None else row["label_max"]
        if low is None or not 0 <= low <= high < SCORES:
            said = low if high == low else f"{low} and label_max {high}"
            raise UserError(
                f"{where}: row '{row['id']}' has label {said}; a label is an integer from 0 to 5, and "
                "label_max, where there is one, the highest that it may mean."
            )
        family, source = row.get("family") or row["id"], row.get("source") or UNNAMED
        found.append({**row, "label_max": high, "source": source, "family": family})
    return found


def split(rows: list[Row], per_family: int, heldout_share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows: at most `per_family` of a family, each family on one side.

    A dataset's own `split` is kept. Where there is none, `heldout_share` of the families of each
    source and label is held out. Raises UserError for a side without rows.
    """
    seen: dict[str, int] = {}
    kept: list[Row] = []
    groups: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        seen[row["family"]] = seen.get(row["family"], 0) + 1
        if per_family and seen[row["family"]] > per_family:
            continue
        kept.append(row)
        if not row.get("split"):
            groups.setdefault(row["family"], (row["source"], row["label"], row["label_max"]))
    strata: dict[tuple[Any, ...], list[str]] = {}
    for family, stratum in groups.items():
        strata.setdefault(stratum, []).append(family)
    out: set[str] = set()
    for families in strata.values():
        families.sort(key=lambda family: stable_hash(seed, "fit", family))
        out.update(families[: round(heldout_share * len(families))])
    heldout = [r for r in kept if (r["split"] == "heldout" if r.get("split") else r["family"] in out)]
    held = {id(row) for row in heldout}
    train = [row for row in kept if id(row) not in held]
    if not train or not heldout:
        raise UserError(
            f"there are {len(train)} texts to fit on and {len(heldout)} to measure on; "
            "both sides need some: give more labelled texts or another heldout_share."
        )
    return train, heldout


def windows(rows: list[Row], number: int, seed: int) -> list[Row]:
    """`number` pieces of one to three sentences of each long text, with the label of their text."""
    pieces = []
    for row in rows:
        sentences = _SENTENCE.split(row["text"])
        for n in range(number if len(sentences) > 3 else 0):
            size = 1 + stable_hash(seed, row["id"], n, "size") % 3
            at = stable_hash(seed, row["id"], n, "at") % (len(sentences) - size + 1)
            pieces.append({**row, "text": " ".join(sentences[at : at + size])})
    return pieces


def bury(rows: list[Row], most: int, seed: int) -> list[tuple[Row, Row]]:
    """Up to `most` short harmful texts, each amid calm ones of `rows`: (the mixture, the calm alone).

    A mixture is as harmful as what lies in it, and carries its label and source; `around` names the
    sources of the calm. Empty where `rows` have no short harmful or no calm texts.
    """
    loud = {row["source"] for row in rows if row["label"] > 0}
    safe = [row for row in rows if row["label"] == 0 and row["label_max"] <= CALM]
    calm = [row for row in safe if row["source"] not in loud] or safe  # best a source that is calm throughout
    harm = [row for row in rows if row["label"] >= HARM and len(row["text"]) <= BURIED_CHARACTERS]
    harm.sort(key=lambda row: stable_hash(seed, "bury", row["id"]))
    pairs = []
    for row in harm[:most] if calm else []:
        draw = partial(stable_hash, seed, "bury", row["id"])
        before: list[str] = []
        after: list[str] = []
        around: set[str] = set()
        room = AROUND[draw("room") % len(AROUND)]
        for n in range(20):
            if room <= 0:
                break
            one = calm[draw("calm", n) % len(calm)]
            text = one["text"][:room]
            (before if draw("side", n) % 2 else after).append(text)
            around.add(one["source"])
            room -= len(text)
        made = {**row, "around": sorted(around), "text": "\n".join([*before, row["text"], *after])}
        alone = {
            **row,
            "around": sorted(around),
            "text": "\n".join([*before, *after]),
            "label": 0,
            "label_max": CALM,
        }
        pairs.append((made, alone))
    return pairs
