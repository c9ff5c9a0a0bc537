"""Selection of the documents to train on.

A rewritten text has the content of its source, so it is held out together with its root, the web document at
the beginning of its chain of sources: the moral retelling of a refusal has the refusal's id as `source_id`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.chunks import CHUNKS, CHUNKS_TYPE
from safety_ray.core.cluster import Shared
from safety_ray.core.dataset import REASON
from safety_ray.core.digests import DigestSet, digest, halves
from safety_ray.core.errors import UserError
from safety_ray.core.records import RAW, RECIPES, SCORES
from safety_ray.pack.duplicates import Copies
from safety_ray.pack.heldout import HELDOUT, Hashes, contains, held_out, held_out_by_hash

TRAIN, UNSELECTED, DUPLICATE = "train", "unselected", "duplicate"
ROOT, ROOT_SCORE = "root_id", "source_score"
_MAX_DEPTH = 8
_NO_TEXT = "it has no text"
_LINKS = pa.schema([("id", pa.large_string()), ("source_id", pa.large_string())])

SELECTED = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("source_id", pa.string()),  # the root
        ("recipe", pa.string()),  # RAW or one of RECIPES
        ("score", pa.int8()),  # of the root; null if unknown
        ("unsafe", pa.bool_()),  # raw text whose score requires harmfulness tags
        (CHUNKS, CHUNKS_TYPE),  # of an unsafe text, if tags depend on them
        ("use", pa.string()),  # train, heldout, unselected or duplicate
        (REASON, pa.string()),
    ]
)


@dataclass(frozen=True)
class Roots:
    """The web documents at the beginning of chains of rewritten rows."""

    ids: DigestSet
    """n sorted digests of the ids of rows whose source is a rewritten row"""
    documents: pa.Array
    """(n,) ids of the web documents"""

    def find(self, batch: pa.Table) -> list[str | None]:
        """Return the root of each row of `batch` (id, source_id); its source if it is in no chain."""
        index, found = self.ids.find(halves(digest(batch.column("id"))))
        roots = self.documents.take(pa.array(index, mask=~found))
        pairs = zip(roots.to_pylist(), batch.column("source_id").to_pylist(), strict=True)
        return [source if root is None else root for root, source in pairs]


@dataclass(frozen=True, slots=True)
class Selection:
    """The settings of the selection, and what must be known of rows in other files."""

    seed: int
    raw_scores: frozenset[int]
    recipes: frozenset[str]
    tag_from: int
    heldout_share: float | None
    """share of the web documents that is held out by hash; None: their column `split` decides"""
    by_chunk: bool = False
    """only chunks of a text that are unsafe themselves contain tags"""
    heldout: Hashes | Shared[Hashes] | None = None
    """sorted hashes of the web documents that the column `split` holds out"""
    roots: Roots | Shared[Roots] | None = None
    """roots of rewritten rows that were made from other rewritten rows"""
    copies: Copies | Shared[Copies] | None = None
    """web documents whose text is that of another one; None: they are used as all others"""

    def hold_out(self, roots: list[str | None]) -> list[bool]:
        """Return whether each web document of `roots`, and everything made from it, is held out."""
        if self.heldout is None:
            share = self.heldout_share or 0.0
            heldout = [i is not None and held_out_by_hash(self.seed, share, i) for i in roots]
        else:
            hashes = self.heldout.get() if isinstance(self.heldout, Shared) else self.heldout
            heldout = contains(hashes, self.seed, roots)
        is_copy, copies_heldout = self.find_copies(roots)
        return [
            of_copy if copy else own
            for copy, of_copy, own in zip(is_copy, copies_heldout, heldout, strict=True)
        ]

    def find_roots(self, batch: pa.Table) -> list[str | None]:
        """Return the root of each rewritten row, by its column `root_id` or its chain of sources."""
        if self.roots is None or ROOT in batch.column_names:
            column = ROOT if ROOT in batch.column_names else "source_id"
            known: list[str | None] = batch.column(column).to_pylist()
            return known
        return (self.roots.get() if isinstance(self.roots, Shared) else self.roots).find(batch)

    def find_copies(self, documents: list[str | None]) -> tuple[list[bool], list[bool]]:
        """Return which web documents are copies, and which of them have a canonical row that is held out."""
        if self.copies is None:
            return [False] * len(documents), [False] * len(documents)
        copies = self.copies.get() if isinstance(self.copies, Shared) else self.copies
        return copies.find(pa.array(documents, pa.string()))


def only_trained(batch: pa.Table) -> pa.Table:
    """Return the texts of the rows of SELECTED to train on, and null for every other row."""
    trained = pc.and_(pc.equal(batch.column("use"), TRAIN), pc.is_null(batch.column(REASON)))
    return pa.table({"text": pc.if_else(trained, batch.column("text"), None)})


def trace_roots(tables: list[pa.Table], where: str) -> Roots:
    """Trace the rewritten rows of `tables` (id, source_id) whose source is a rewritten row.

    Raises UserError if a chain of sources is a cycle or longer than eight rows. `where` names the dataset.
    """
    rows = pa.concat_tables(
        [_LINKS.empty_table(), *(table.select(_LINKS.names).cast(_LINKS) for table in tables)]
    )
    ids, sources = (column.combine_chunks() for column in rows.columns)
    own = pa.array(range(len(ids)), pa.int32())
    parents = pc.index_in(sources, value_set=ids)
    # A rewritten row may have the same id as the web document it was made from: that is no cycle.
    parents = pc.if_else(pc.fill_null(pc.equal(parents, own), False), None, parents)
    chained = pc.is_valid(parents)
    ends, above = own, parents
    for _ in range(_MAX_DEPTH):
        if above.null_count == len(above):
            break
        ends = pc.coalesce(above, ends)
        above = parents.take(ends)
    else:
        row = ids.filter(pc.is_valid(above))[0].as_py()
        raise UserError(
            f"{where}: the source_id of '{row}' leads through more than {_MAX_DEPTH} rewritten rows or in a "
            "cycle; it must lead to a web document."
        )
    known, order = DigestSet.of(halves(digest(ids.filter(chained))))
    return Roots(known, sources.take(ends).filter(chained).take(pa.array(order)))


def select_raw(batch: pa.Table, selection: Selection) -> pa.Table:
    """Return scored web documents as rows of SELECTED, with text only for those to train on."""
    heldout = held_out(batch, selection.seed, selection.heldout_share).to_pylist()
    ids = batch.column("id").to_pylist()
    is_copy, _ = selection.find_copies(ids)
    chunks = batch.column(CHUNKS).to_pylist() if selection.by_chunk else [None] * len(batch)
    rows = []
    for id, text, score, is_heldout, copied, scored_chunks in zip(
        ids,
        batch.column("text").to_pylist(),
        batch.column("score").to_pylist(),
        heldout,
        is_copy,
        chunks,
        strict=True,
    ):
        valid = score in range(SCORES)
        reason = None
        if not text and not is_heldout:
            reason = _NO_TEXT
        elif not valid and not is_heldout and not copied:
            reason = f"its score is {score}, not 0-{SCORES - 1}"
        use = HELDOUT if is_heldout else TRAIN if score in selection.raw_scores else UNSELECTED
        use = DUPLICATE if copied else use
        unsafe = valid and score >= selection.tag_from
        row = _row(id, text, id, RAW, score if valid else None, unsafe, use, reason)
        rows.append(row | {CHUNKS: scored_chunks if unsafe and use == TRAIN else None})
    return pa.Table.from_pylist(rows, schema=SELECTED)


def select_rewritten(batch: pa.Table, selection: Selection) -> pa.Table:
    """Return rewritten documents as rows of SELECTED; none is unsafe, whatever its score (section 4)."""
    roots = selection.find_roots(batch)
    scores = batch.column(ROOT_SCORE).to_pylist() if ROOT_SCORE in batch.column_names else [None] * len(batch)
    rows = []
    for id, text, recipe, root, score, heldout in zip(
        batch.column("id").to_pylist(),
        batch.column("text").to_pylist(),
        batch.column("recipe").to_pylist(),
        roots,
        scores,
        selection.hold_out(roots),
        strict=True,
    ):
        reason = None
        if root is None:
            reason = "its source_id is missing, so the document it was made from is unknown"
        elif not text and not heldout:
            reason = _NO_TEXT
        elif recipe not in RECIPES and not heldout:
            reason = f"its recipe is {recipe!r}, not one of {', '.join(RECIPES)}"
        use = HELDOUT if heldout else TRAIN if recipe in selection.recipes else UNSELECTED
        known = int(score) if score in range(SCORES) else None  # not NaN, for example
        rows.append(_row(id, text, root, recipe, known, False, use, reason))
    return pa.Table.from_pylist(rows, schema=SELECTED)


def _row(
    id: str,
    text: str | None,
    root: str | None,
    recipe: str | None,
    score: int | None,
    unsafe: bool,
    use: str,
    reason: str | None,
) -> dict[str, object]:
    return {
        "id": id,
        "text": text if use == TRAIN or reason else None,
        "source_id": root,
        "recipe": recipe,
        "score": score,
        "unsafe": unsafe,
        CHUNKS: None,
        "use": use,
        REASON: reason,
    }
