"""Facts of all documents that packing one of them needs: equal texts, roots, and what is held out."""

from __future__ import annotations

from functools import partial

from safety_ray.core import cluster, dataset, digests, exchange, partition
from safety_ray.core.artifact import Artifact
from safety_ray.core.cluster import Shared
from safety_ray.core.exchange import WHOLE_BLOCKS
from safety_ray.core.records import SCORED_TEXT
from safety_ray.pack import duplicates, heldout, inputs, selection, shards
from safety_ray.pack.duplicates import Copies
from safety_ray.pack.heldout import SPLIT, Hashes
from safety_ray.pack.selection import ROOT, Roots
from safety_ray.pack.settings import PackConfig


def has_split(path: str) -> bool:
    """Return whether a column `split` decides what is held out: `ingest` writes one without values."""
    return SPLIT in dataset.columns(path) and dataset.has_values(path, SPLIT)


def find_copies(config: PackConfig, share: float | None, total: int) -> Shared[Copies]:
    """Find the web documents, of `total`, whose text is that of another one, by a shuffle of digests."""
    scored = partition.whole(config.scored)
    names = ["id", "text", *([SPLIT] if share is None else [])]
    files = dataset.files(scored)
    hashed = dataset.stream(files, names).map_batches(
        duplicates.digests, fn_kwargs={"seed": config.seed, "share": share}, **WHOLE_BLOCKS
    )
    blocks = total // digests.ROWS_PER_BLOCK + 1
    copies = exchange.by_key(hashed, digests.HALF, blocks, duplicates.copies_among, inputs=len(files))
    return cluster.gather(copies, Copies.of)


def find_roots(config: PackConfig) -> Shared[Roots] | None:
    """Trace the sources of rewritten rows in a task.

    Returns None if there are no rewritten rows, or if their column `root_id` contains the roots.
    """
    if not inputs.reads_rewritten(config) or ROOT in dataset.columns(config.rewritten):
        return None
    rows = dataset.stream(dataset.files(partition.whole(config.rewritten)), ["id", "source_id"])
    return cluster.gather(rows, partial(selection.trace_roots, where=f"'{config.rewritten}'"))


def hold_out(
    config: PackConfig, out: Artifact, share: float | None, copies: Shared[Copies] | None = None
) -> Shared[Hashes] | None:
    """Write the held-out documents without `copies`, in tasks: a share by hash, or by the column `split`.

    Returns the hashes of the documents that the column `split` holds out, if it decides.
    """
    path, names = out.sub(*heldout.FILE), dataset.columns(config.scored)
    hashes: Shared[Hashes] | None = None
    highest = heldout.ALL
    if share is None:
        files = dataset.files(partition.whole(config.scored))
        blocks = dataset.stream(files, ["id", SPLIT]).map_batches(
            heldout.hashes_of, fn_kwargs={"seed": config.seed}, **WHOLE_BLOCKS
        )
        hashes = cluster.gather(blocks, heldout.sort_hashes)
        highest = heldout.highest_written(hashes.get(), config.heldout_max)
    if not shards.exists(path):
        schema = dataset.schema_of(config.scored).remove_metadata().empty_table().select(names).schema
        blocks = dataset.read(config.scored, SCORED_TEXT).map_batches(
            heldout.only_held_out,
            fn_kwargs={"seed": config.seed, "share": share, "highest": highest},
            **WHOLE_BLOCKS,
        )
        if copies is not None:
            blocks = blocks.map_batches(duplicates.without, fn_kwargs={"copies": copies}, **WHOLE_BLOCKS)
        rows = blocks if share is None or share > 0 else []
        cluster.gather(rows, partial(heldout.write, path, schema))
    return hashes
