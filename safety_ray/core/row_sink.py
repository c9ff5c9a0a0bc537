"""Write rows with Ray Data where they stay: kept rows to `data/`, rejected rows to `rejected/`.

Ray's row checkpoints record the ids of a task's rows before and after its files are written, so that files
of a task that did not finish can be found (see row_files.remove_unfinished).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import row_files

if TYPE_CHECKING:
    from ray.data.datasource import BlockBasedFileDatasink

REASON = "rejected_reason"
_ATTEMPTS, _LONGEST_WAIT_S = 10, 32


def row_sink(root: str, part: str, *, rows: int, max_bytes: int) -> BlockBasedFileDatasink:
    """Return the sink of a part of the output folder `root`.

    A task writes at least `rows` rows, if more are left; or, if `rows` is 0, at least `max_bytes` bytes of
    Arrow data. After the write, `sink.names` has the names of the files of all tasks.
    """
    from pyarrow.fs import LocalFileSystem
    from ray.data import DataContext
    from ray.data.block import BlockAccessor
    from ray.data.datasource import BlockBasedFileDatasink

    class RowSink(BlockBasedFileDatasink):  # type: ignore[misc]
        min_rows_per_write = rows or None
        min_bytes_per_write = None if rows else max_bytes

        def __init__(self) -> None:
            super().__init__(root, file_format="parquet", try_create_dir=False)
            self.names: list[str] = []

        def write(self, blocks: Any, ctx: Any) -> str | None:
            """Write the rows of a task. Returns the name of its files, or None without rows."""
            tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
            tables = [table for table in tables if len(table)]
            if not tables:
                return None
            task = self.filename_provider.get_filename_for_task(ctx.kwargs["write_uuid"], ctx.task_idx)
            kept, rejected = split(pa.concat_tables(tables, promote_options="default"))
            name = row_files.name_of(task.removesuffix(".parquet"), len(kept), len(rejected))
            for folder, outcome in zip(row_files.folders(self.path, part), (kept, rejected), strict=True):
                if isinstance(self.filesystem.unwrap(), LocalFileSystem):  # this node may have no folder yet
                    self.filesystem.create_dir(folder, recursive=True)
                if len(outcome):
                    retried = DataContext.get_current().retried_io_errors
                    write_file(self.filesystem, f"{folder}/{name}", outcome, retried)
            return name

        def on_write_complete(self, write_result: Any) -> None:
            self.names = [name for name in write_result.write_returns if name]

    return RowSink()


def split(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the kept and the rejected rows, with the reason as their last column."""
    if REASON in table.column_names:
        reasons = table.column(REASON).cast(pa.string())
        table = table.drop_columns([REASON])
    else:
        reasons = pa.nulls(len(table), pa.string())
    table = table.append_column(REASON, reasons)
    return table.filter(pc.is_null(reasons)), table.filter(pc.is_valid(reasons))


def write_file(fs: Any, path: str, table: pa.Table, retried: list[str]) -> None:
    """Write one Parquet file with a pyarrow filesystem, in row groups that fit into readers' memory.

    Repeats the write after errors whose messages have one of the texts `retried`.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with fs.open_output_stream(path) as file:
                pq.write_table(table, file, row_group_size=row_files.GROUP_ROWS)
            return
        except Exception as error:
            if attempt == _ATTEMPTS or not any(text in str(error) for text in retried):
                raise
            time.sleep(min(2**attempt, _LONGEST_WAIT_S))
