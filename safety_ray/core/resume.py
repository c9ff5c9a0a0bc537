"""Skip rows that an interrupted write has written: Ray Data's row checkpoints, compared by digest.

Ray's own filter holds the ids of all written rows as Python objects in each of its actors. Here, Ray tasks
turn them into 16 bytes each, in one array per node that the actors read in place (see digests.py, also for
why equal digests mean equal ids).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from safety_ray.compat import ray_parquet
from safety_ray.core import cluster, filesystem, parquet
from safety_ray.core.digests import TYPE, DigestSet, digest, halves

if TYPE_CHECKING:
    from ray.data.checkpoint import CheckpointConfig

_DIGEST = "digest"


def checkpoints(id_column: str, folder: str, read_as: str | None) -> CheckpointConfig:
    """Return Ray's settings: write the ids of each finished task to `folder`, and skip rows with these ids.

    `id_column` is the unique column of the written rows, and `read_as` its name in the source if it differs.
    """
    from ray.data.checkpoint import CheckpointConfig, CheckpointFilter, CheckpointManager

    column = read_as or id_column

    class Manager(CheckpointManager):  # type: ignore[misc]
        def load_checkpoint(self, *_: Any, **__: Any) -> tuple[Any, int]:
            """Return the written ids and 0: the actors need no memory for ids that they read in place."""
            return load(self.checkpoint_path, self.id_column), 0

    class Filter(CheckpointFilter):  # type: ignore[misc]
        def filter_rows_for_block(self, block: Any) -> Any:
            return unwritten(block, column, self.checkpoint_ref.get()) if len(block) else block

    return CheckpointConfig(
        id_column,
        folder,
        delete_checkpoint_on_success=False,
        checkpoint_filter_cls=Filter,
        checkpoint_manager_cls=Manager,
    )


def load(folder: str, id_column: str) -> cluster.Shared[DigestSet] | None:
    """Return the digests of the ids that the files of `folder` have, or None if it has no file."""
    fs, root = filesystem.find(folder)
    names = [fs.unstrip_protocol(name) if "://" in folder else name for name in sorted(fs.find(root))]
    if not names:
        return None
    ids = ray_parquet.read(names, [id_column], parquet.readable)
    ids.context.checkpoint_config = None
    return cluster.gather(
        ids.map_batches(_to_digests, fn_kwargs={"column": id_column}, batch_format="pyarrow"), _to_set
    )


def unwritten(rows: pa.Table, column: str, written: DigestSet) -> pa.Table:
    """Return the rows whose id is not in `written`."""
    _, found = written.find(halves(digest(rows.column(column))))
    return rows.filter(pa.array(~found))


def _to_digests(batch: pa.Table, column: str) -> pa.Table:
    return pa.table({_DIGEST: digest(batch.column(column))})


def _to_set(tables: list[pa.Table]) -> DigestSet:
    column = pa.chunked_array([chunk for t in tables if len(t) for chunk in t.column(_DIGEST).chunks], TYPE)
    return DigestSet.of(halves(column))[0]
