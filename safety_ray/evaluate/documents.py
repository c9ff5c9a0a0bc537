"""Which documents are asked about: a seeded sample of the safe and of the unsafe ones, and prompts."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from safety_ray.core import dataset, filesystem
from safety_ray.core.errors import UserError
from safety_ray.core.records import DOCUMENT, require, stable_hash

SAFE, UNSAFE = "safe", "unsafe"


@dataclass(frozen=True, slots=True)
class Document:
    id: str
    text: str
    unsafe: bool
    source: str | None = None  # where it comes from, if the dataset says so and that was asked for


@dataclass(frozen=True, slots=True)
class Prompt:
    id: str  # of the document it begins
    text: str


def choose(
    paths: list[str], *, safe_up_to: int, unsafe_from: int, most: int, seed: int, source: str = ""
) -> tuple[list[Document], list[Document]]:
    """At most `most` safe and `most` unsafe documents of the datasets, in an order drawn by the seed.

    A document's level of harm is its `label`, else its `score`; of equal ids the first dataset's
    counts. `source` is the column that names where a document comes from; a dataset may lack it. Ids and
    levels of all rows are read, texts only of those that are taken. Raises UserError where a dataset lacks
    another column or one of the two sides is empty.
    """
    seen: set[int] = set()
    taken: dict[bool, list[tuple[int, str, int]]] = {False: [], True: []}  # heaps, the highest draw first
    found = {False: 0, True: 0}
    for number, path in enumerate(paths):
        for batch in _levels(path):
            ids, levels = batch.column("id").to_pylist(), batch.column("level").to_pylist()
            for id, level in zip(ids, levels, strict=True):
                key = stable_hash(id)
                if level is None or key in seen:
                    continue
                seen.add(key)
                if safe_up_to < level < unsafe_from:
                    continue
                unsafe = level >= unsafe_from
                found[unsafe] += 1
                push = heapq.heappush if len(taken[unsafe]) < most else heapq.heappushpop
                push(taken[unsafe], (-stable_hash(seed, id), id, number))
    if not all(found.values()):
        raise UserError(
            f"{', '.join(paths)}: {found[False]:,} safe documents (level up to safe_up_to={safe_up_to}) and "
            f"{found[True]:,} unsafe ones (from unsafe_from={unsafe_from}); give documents of both kinds."
        )
    safe, unsafe = (_with_text(paths, taken[side], unsafe=side, source=source) for side in (False, True))
    return safe, unsafe


def prompts(documents: list[Document], *, words: int, most: int) -> list[Prompt]:
    """The first `words` words of the first `most` documents that have more; equal ones once.

    White space between the words stays as it is. Raises UserError where no document is long enough.
    """
    beginning = re.compile(rf"\s*(?:\S+\s+){{{words - 1}}}\S+(?=\s+\S)")
    found: dict[str, Prompt] = {}
    for document in documents:
        match = beginning.match(document.text)
        if match and len(found) < most:
            found.setdefault(match.group().lstrip(), Prompt(document.id, match.group().lstrip()))
    if not found:
        raise UserError(
            f"none of the {len(documents):,} unsafe documents has more than prompt_words={words} words; "
            "give longer documents or fewer words."
        )
    return list(found.values())


def _open(path: str) -> pads.Dataset:
    fs, _ = filesystem.find(path)
    names = [name.split("://", 1)[-1] for name in dataset.files(path)]
    return pads.dataset(names, filesystem=fs, format="parquet")


def _levels(path: str) -> list[pa.RecordBatch]:
    """id and level of the rows of `path` that have a text."""
    names = dataset.columns(path)
    require(DOCUMENT, names, f"'{path}'")
    sources = [pc.field(name).cast(pa.int64()) for name in ("label", "score") if name in names]
    if not sources:
        raise UserError(f"'{path}' has neither a column 'label' nor 'score'; score it first (jobs.score).")
    level = pc.coalesce(*sources) if len(sources) > 1 else sources[0]
    columns = {"id": pc.field("id"), "level": level}
    filled = pc.binary_length(pc.field("text")) > 0
    batches: list[pa.RecordBatch] = _open(path).scanner(columns=columns, filter=filled).to_batches()
    return batches


def _with_text(
    paths: list[str], taken: list[tuple[int, str, int]], *, unsafe: bool, source: str
) -> list[Document]:
    order = [(id, number) for _, id, number in sorted(taken, reverse=True)]
    found: dict[tuple[str, int], Document] = {}
    for number in {number for _, number in order}:
        wanted = pa.array([id for id, at in order if at == number])
        rows = _open(paths[number]).to_table(
            columns=["id", "text", *({source} & set(dataset.columns(paths[number])))],
            filter=pc.field("id").isin(wanted) & (pc.binary_length(pc.field("text")) > 0),
        )
        for row in rows.to_pylist():
            told = row.get(source)
            document = Document(row["id"], row["text"], unsafe, None if told is None else str(told))
            found.setdefault((row["id"], number), document)
    return [found[key] for key in order]
