"""Which documents are trained on: their recipe, the web document at their root, what is held out.

A rewritten text says what its source said, so it is held out with the web document at its root:
a refusal's moral retelling has the refusal's id as `source_id`, and the chain is followed.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.dataset import REASON
from safety_ray.core.errors import UserError
from safety_ray.core.records import RAW, RECIPES, SCORES, stable_hash

TRAIN, HELDOUT, UNSELECTED = "train", "heldout", "unselected"
SPLIT, ROOT, ROOT_SCORE, CHUNKS = "split", "root_id", "source_score", "chunk_scores"
_DEEPEST = 8
_NO_TEXT = "it has no text"

SELECTED = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("source_id", pa.string()),  # the web document at the root
        ("recipe", pa.string()),  # RAW or one of RECIPES
        ("score", pa.int8()),  # of the web document at the root; null where it is not known
        ("unsafe", pa.bool_()),  # raw text whose score calls for harmfulness tags
        ("chunk_scores", pa.list_(pa.int8())),  # of the parts of an unsafe text, where tags go by part
        ("use", pa.string()),  # train, heldout or unselected
        (REASON, pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The settings that decide, and what is known of the rows that lie elsewhere."""

    seed: int
    raw_scores: frozenset[int]
    recipes: frozenset[str]
    tag_from: int
    heldout_share: float
    by_chunk: bool = False
    """tags go into the parts of a text that are unsafe themselves"""
    heldout_ids: frozenset[str] | None = None
    """Web documents that `split` holds out; None: the hash decides."""
    roots: dict[str, str] | None = None
    """Web document of each rewritten row that was made from another rewritten row."""

    def holds_out(self, root: str) -> bool:
        """Whether the web document `root`, and all that was made from it, is held out."""
        if self.heldout_ids is not None:
            return root in self.heldout_ids
        return held_out_by_hash(self.seed, self.heldout_share, root)


def held_out_by_hash(seed: int, share: float, document: str) -> bool:
    """True for about the share `share` of all ids, and always for the same ones."""
    return stable_hash(seed, "heldout", document) < share * 2**64


def held_out(batch: pa.Table, seed: int, share: float) -> pa.Array:
    """For each web document of `batch`, whether its column `split` or, without one, the hash holds it out."""
    if SPLIT in batch.column_names:
        split = batch.column(SPLIT).cast(pa.string()).combine_chunks()
        return pc.fill_null(pc.equal(split, HELDOUT), False)
    ids = batch.column("id").to_pylist()
    return pa.array([held_out_by_hash(seed, share, i) for i in ids], pa.bool_())


def only_held_out(batch: pa.Table, seed: int, share: float) -> pa.Table:
    """The held-out rows of scored web documents, with all their columns."""
    return batch.filter(held_out(batch, seed, share))


def only_trained(batch: pa.Table) -> pa.Table:
    """The texts of rows of SELECTED to train on, null for every other row."""
    trained = pc.and_(pc.equal(batch.column("use"), TRAIN), pc.is_null(batch.column(REASON)))
    return pa.table({"text": pc.if_else(trained, batch.column("text"), None)})


def trace_roots(ids: pa.ChunkedArray, sources: pa.ChunkedArray, where: str) -> dict[str, str]:
    """id → web document, for each rewritten row whose source is a rewritten row; UserError for a circle."""
    ids, sources = (c.cast(pa.large_string()).combine_chunks() for c in (ids, sources))
    own = pa.array(range(len(ids)), pa.int32())
    parents = pc.index_in(sources, value_set=ids)
    # A rewritten row may bear the name of the web document it was made from: that is no circle.
    parents = pc.if_else(pc.fill_null(pc.equal(parents, own), False), None, parents)
    chained = pc.is_valid(parents)
    ends, above = own, parents
    for _ in range(_DEEPEST):
        if above.null_count == len(above):
            break
        ends = pc.coalesce(above, ends)
        above = parents.take(ends)
    else:
        row = ids.filter(pc.is_valid(above))[0].as_py()
        raise UserError(
            f"{where}: the source_id of '{row}' leads through more than {_DEEPEST} rewritten rows or in a "
            "circle; it must lead to a web document."
        )
    roots = sources.take(ends)
    return dict(zip(ids.filter(chained).to_pylist(), roots.filter(chained).to_pylist(), strict=True))


def select_raw(batch: pa.Table, selection: Selection) -> pa.Table:
    """Scored web documents as rows of SELECTED; rows that are not trained on keep no text."""
    away = held_out(batch, selection.seed, selection.heldout_share).to_pylist()
    chunks = batch.column(CHUNKS).to_pylist() if selection.by_chunk else [None] * len(batch)
    rows = []
    for name, text, score, out, parts in zip(
        batch.column("id").to_pylist(),
        batch.column("text").to_pylist(),
        batch.column("score").to_pylist(),
        away,
        chunks,
        strict=True,
    ):
        known = score in range(SCORES)
        reason = None
        if not text and not out:
            reason = _NO_TEXT
        elif not known and not out:
            reason = f"its score is {score}, not 0-{SCORES - 1}"
        use = HELDOUT if out else TRAIN if score in selection.raw_scores else UNSELECTED
        unsafe = known and score >= selection.tag_from
        row = _row(name, text, name, RAW, score if known else None, unsafe, use, reason)
        rows.append(row | {CHUNKS: parts if unsafe and use == TRAIN else None})
    return pa.Table.from_pylist(rows, schema=SELECTED)


def select_rewritten(batch: pa.Table, selection: Selection) -> pa.Table:
    """Rewritten documents as rows of SELECTED; none is unsafe (paper, section 4), whatever its score."""
    if ROOT in batch.column_names:
        roots = batch.column(ROOT).to_pylist()
    else:
        above, sources = selection.roots or {}, batch.column("source_id").to_pylist()
        roots = [above.get(i, s) for i, s in zip(batch.column("id").to_pylist(), sources, strict=True)]
    scores = batch.column(ROOT_SCORE).to_pylist() if ROOT_SCORE in batch.column_names else [None] * len(batch)
    rows = []
    for name, text, recipe, root, score in zip(
        batch.column("id").to_pylist(),
        batch.column("text").to_pylist(),
        batch.column("recipe").to_pylist(),
        roots,
        scores,
        strict=True,
    ):
        out = root is not None and selection.holds_out(root)
        reason = None
        if root is None:
            reason = "it does not say which document it was made from"
        elif not text and not out:
            reason = _NO_TEXT
        elif recipe not in RECIPES and not out:
            reason = f"its recipe is {recipe!r}, not one of {', '.join(RECIPES)}"
        use = HELDOUT if out else TRAIN if recipe in selection.recipes else UNSELECTED
        rows.append(_row(name, text, root, recipe, score, False, use, reason))
    return pa.Table.from_pylist(rows, schema=SELECTED)


def _row(
    name: str,
    text: str | None,
    root: str | None,
    recipe: str | None,
    score: int | None,
    unsafe: bool,
    use: str,
    reason: str | None,
) -> dict[str, object]:
    return {
        "id": name,
        "text": text if use == TRAIN or reason else None,
        "source_id": root,
        "recipe": recipe,
        "score": score,
        "unsafe": unsafe,
        CHUNKS: None,
        "use": use,
        REASON: reason,
    }
