"""Seeded samples of safe and unsafe documents, and prompts from their beginnings."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core import dataset, parquet
from safety_ray.core.errors import UserError
from safety_ray.core.records import DOCUMENT, stable_hash
from safety_ray.evaluate.prompt_sets import DOCUMENTS, HARMFUL, HARMLESS, Prompt, Sample
from safety_ray.evaluate.prompt_sets.prompt_set import is_excluded, take

_BATCH = 4096  # rows


@dataclass(frozen=True, slots=True)
class Document:
    """A document of an evaluation."""

    id: str
    text: str
    unsafe: bool
    source: str | None = None  # value of the source column, if requested and present
    group: str = ""  # value of the group column, if requested and present, else the id
    category: str | None = None  # value of the category column, if requested and present


class Chosen(NamedTuple):
    """Samples of safe and of unsafe documents."""

    safe: list[Document]
    unsafe: list[Document]
    others: dict[bool, int]
    """numbers of safe (False) and unsafe (True) rows that are not in the samples"""


def choose(
    paths: list[str],
    *,
    safe_up_to: int,
    unsafe_from: int,
    limit: int,
    seed: int,
    source: str = "",
    group: str = "",
    category: str = "",
    heldout: bool = True,
) -> Chosen:
    """Sample at most `limit` safe and `limit` unsafe documents of the datasets, in random order.

    A document's level of harm is its `label`, else its `score`. If an id occurs more than once, the first row
    is used. All rows are read twice or more; memory depends on `limit` only, and not on their number.

    Args:
        paths: the datasets.
        safe_up_to: highest level of a safe document.
        unsafe_from: lowest level of an unsafe document.
        limit: maximum number of documents of each kind.
        seed: seed of the sample and the order.
        source: column with a document's source; datasets may lack it.
        group: column with the group of a document, such as its family; datasets may lack it.
        category: column with the kind of a document's harm; datasets may lack it.
        heldout: include rows whose column `split` is "heldout"; datasets may lack it.

    Raises:
        UserError: a dataset lacks a required column, or there are no safe or no unsafe documents.
    """
    excluded: set[tuple[str, bool]] = set()
    while True:
        samples, rows = _lowest(
            paths, excluded, safe_up_to=safe_up_to, unsafe_from=unsafe_from, limit=limit, seed=seed,
            heldout=heldout,
        )  # fmt: skip
        first = _first_rows(paths, {id for sample in samples.values() for id in sample}, heldout)
        wrong = {
            (id, unsafe)
            for unsafe, sample in samples.items()
            for id in sample
            if not (first[id][0] >= unsafe_from if unsafe else first[id][0] <= safe_up_to)
        }
        if not wrong:
            break
        excluded |= wrong
    if not all(samples.values()):
        raise UserError(
            f"{', '.join(paths)}: {len(samples[False]):,} safe documents (level up to "
            f"safe_up_to={safe_up_to}) and {len(samples[True]):,} unsafe ones (from "
            f"unsafe_from={unsafe_from}){'' if heldout else ' without split=heldout'}; give documents of "
            "both kinds."
        )
    columns = {"source": source, "group": group, "category": category}
    safe, unsafe = (
        _with_text(
            paths, [(id, first[id][1]) for id in samples[unsafe]], unsafe=unsafe, heldout=heldout, **columns
        )
        for unsafe in (False, True)
    )
    return Chosen(safe, unsafe, {kind: rows[kind] - len(samples[kind]) for kind in samples})


def _lowest(
    paths: list[str],
    excluded: set[tuple[str, bool]],
    *,
    safe_up_to: int,
    unsafe_from: int,
    limit: int,
    seed: int,
    heldout: bool,
) -> tuple[dict[bool, list[str]], dict[bool, int]]:
    """Return at most `limit` ids of safe and of unsafe rows: those with the lowest hashes, in this order.

    Also returns the numbers of safe and of unsafe rows.

    Memory does not depend on the number of rows. If rows with the same id have different levels, the id may
    be in the wrong sample. `excluded` has ids with the sample (unsafe or not) that they do not belong to.
    """
    heaps: dict[bool, list[tuple[int, str]]] = {False: [], True: []}  # highest hash first
    members: dict[bool, set[str]] = {False: set(), True: set()}
    rows = {False: 0, True: 0}
    for path in paths:
        for batch in _levels(path, heldout=heldout):
            for id, level in zip(batch["id"].to_pylist(), batch["level"].to_pylist(), strict=True):
                if safe_up_to < level < unsafe_from:
                    continue
                unsafe = level >= unsafe_from
                rows[unsafe] += 1
                heap, hash = heaps[unsafe], stable_hash(seed, id)
                if len(heap) == limit and hash >= -heap[0][0]:
                    continue
                if id in members[unsafe] or (id, unsafe) in excluded:
                    continue
                members[unsafe].add(id)
                heapq.heappush(heap, (-hash, id))
                if len(heap) > limit:
                    members[unsafe].remove(heapq.heappop(heap)[1])
    return {kind: [id for _, id in sorted(heap, reverse=True)] for kind, heap in heaps.items()}, rows


def _first_rows(paths: list[str], ids: set[str], heldout: bool) -> dict[str, tuple[int, int]]:
    """Return the level of the first row of each id, and the number of its dataset."""
    first: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(paths):
        for batch in _levels(path, ids, heldout):
            for id, level in zip(batch["id"].to_pylist(), batch["level"].to_pylist(), strict=True):
                first.setdefault(id, (level, number))
    return first


def beginnings(
    documents: list[Document], *, words: int, limit: int, skip: int = 0, others: int = 0
) -> Sample:
    """Return the first `words` words of documents with more words, as prompts.

    Repeated beginnings, and those about sexual content with minors, are left out. Of the others the first
    `skip` are not used, nor others of their groups, and at most `limit` of the following ones are (0: all).
    Whitespace between words is kept. A prompt ends at a word, so that most end in the middle of a sentence.
    `others` is the number of documents that are not among the `documents`, which are counted as not sampled.
    Raises UserError if no prompt remains.
    """
    beginning = re.compile(rf"\s*(?:\S+\s+){{{words - 1}}}\S+(?=\s+\S)")
    left_out = {"too_short": 0, "repeated": 0, "excluded": 0, "not_sampled": others}
    unique: dict[str, Prompt] = {}
    for document in documents:
        match = beginning.match(document.text)
        text = match.group().lstrip() if match else ""
        if not match:
            left_out["too_short"] += 1
        elif text in unique:
            left_out["repeated"] += 1
        elif is_excluded(text):
            left_out["excluded"] += 1
        else:
            kind = HARMFUL if document.unsafe else HARMLESS
            unique[text] = Prompt(DOCUMENTS, kind, document.id, document.group or document.id, text)
    if not unique:
        kind = "unsafe" if documents and documents[0].unsafe else "safe"
        raise UserError(
            f"none of the {len(documents):,} {kind} documents has more than prompt_words={words} words; "
            "give longer documents, or lower prompt_words."
        )
    sampled = take(list(unique.values()), limit, skip)
    left_out["not_sampled"] += len(unique) - len(sampled)
    return Sample(sampled, left_out)


def _levels(path: str, ids: set[str] | None = None, heldout: bool = True) -> Iterator[pa.RecordBatch]:
    """Yield id and level of the rows of `path` that have a text and a level (of those with one of `ids`).

    Without `heldout`, rows that the column `split` holds out are left out.
    """
    dataset.check(path, DOCUMENT)
    level = _level(path)
    columns = {"id": pc.field("id"), "level": level}
    wanted = _wanted(path, heldout) & level.is_valid()
    if ids is not None:
        wanted = pc.field("id").isin(pa.array(sorted(ids), pa.string())) & wanted
    # The filter reads texts: few rows at a time, and few batches ahead.
    with parquet.readable(*dataset.files(path)):
        scanner = dataset.rows_of(path).scanner(
            columns=columns, filter=wanted, batch_size=_BATCH, batch_readahead=2, fragment_readahead=1
        )
        for batch in scanner.to_batches():
            if batch["id"].null_count:
                raise UserError(f"'{path}' has a document without an id.")
            yield batch


def _level(path: str) -> pc.Expression:
    """Return the expression of a document's level. Raises UserError without a column of numbers for it."""
    schema = dataset.schema_of(path)
    kinds = {name: schema.field(name).type for name in ("label", "score") if name in schema.names}
    if not kinds:
        raise UserError(f"'{path}' has no column 'label' or 'score'; run the score job first.")
    for name, kind in kinds.items():
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise UserError(f"'{path}': the column '{name}' must be numbers from 0 to 5, not {kind}.")
    sources = [pc.field(name).cast(pa.int64()) for name in kinds]
    return pc.coalesce(*sources) if len(sources) > 1 else sources[0]


def _wanted(path: str, heldout: bool) -> pc.Expression:
    """Return the filter of the rows of `path` with a text, those with split=heldout only if `heldout`."""
    wanted = pc.binary_length(pc.field("text")) > 0
    if not heldout and "split" in dataset.columns(path):
        wanted = pc.coalesce(pc.field("split") != "heldout", pc.scalar(True)) & wanted
    return wanted


def _with_text(
    paths: list[str],
    order: list[tuple[str, int]],
    *,
    unsafe: bool,
    heldout: bool,
    source: str,
    group: str,
    category: str,
) -> list[Document]:
    """Return the documents `order`, each an id and the number of its dataset, in this order."""
    documents: dict[tuple[str, int], Document] = {}
    for number in {number for _, number in order}:
        ids = pa.array([id for id, dataset_number in order if dataset_number == number])
        path = paths[number]
        with parquet.readable(*dataset.files(path)):
            rows = dataset.rows_of(path).to_table(
                columns=["id", "text", *({source, group, category} & set(dataset.columns(path)))],
                filter=pc.field("id").isin(ids) & _wanted(path, heldout) & _level(path).is_valid(),
            )
        for row in rows.to_pylist():
            document = Document(
                row["id"],
                row["text"],
                unsafe,
                None if row.get(source) is None else str(row[source]),
                str(row["id"] if row.get(group) is None else row[group]),
                None if row.get(category) is None else str(row[category]),
            )
            documents.setdefault((row["id"], number), document)
    return [documents[key] for key in order]
