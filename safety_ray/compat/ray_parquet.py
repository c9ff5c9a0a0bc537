"""Read Parquet files as `ray.data.read_parquet` does, in a context that says which file is damaged.

Ray 2.60 raises pyarrow's error as it is, and pyarrow does not name the file. A read task has few files, and
this module puts each task into a context with their names. Needs Ray's class of the Parquet source, which is
private: `read_parquet` accepts no other one, and a source of our own would have to repeat its pushdown of
columns and its estimates of sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ray.data

Context = Callable[..., AbstractContextManager[None]]


def read(paths: list[str], columns: list[str] | None, context: Context) -> ray.data.Dataset:
    """Return the rows of the files `paths`. Each task reads its files in `context(*files)`.

    A folder such as `split=train/` neither adds a column nor replaces the values of one.
    """
    import ray.data
    from ray.data._internal.datasource.parquet_datasource import ParquetDatasource
    from ray.data.datasource import ReadTask

    given = {path.split("://", 1)[-1]: path for path in paths}  # Ray's paths have no protocol

    class NamedParquet(ParquetDatasource):  # type: ignore[misc]
        def get_read_tasks(self, *args: Any, **kwargs: Any) -> list[ReadTask]:
            return [in_context(task) for task in super().get_read_tasks(*args, **kwargs)]

    def in_context(task: ReadTask) -> ReadTask:
        files = [given.get(path, path) for path in task.metadata.input_files]
        read_files = task.read_fn

        def read_in_context() -> Iterator[Any]:
            with context(*files):
                yield from read_files()

        return ReadTask(
            read_in_context, task.metadata, schema=task.schema, per_task_row_limit=task.per_task_row_limit
        )

    return ray.data.read_datasource(NamedParquet(paths, columns=columns, partitioning=None))
