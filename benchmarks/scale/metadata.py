"""List, count, divide and start to read the files of a corpus, as many as a stage writes for its documents.

The files have the names that a stage gives them, with the numbers of their rows, and one row of content each.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa

from benchmarks.scale import elsewhere
from benchmarks.scale.driver import measured
from safety_ray.core import dataset, row_files
from safety_ray.core.partition import Share
from safety_ray.core.records import Column

_BYTES_PER_DOCUMENT = 2000
_PARTITIONS = 100
_LINKS = 10_000  # file systems limit the number of names of a file


def run(rows: int, folder: str) -> dict[str, float]:
    """Measure a corpus of `rows` documents of 2 KB."""
    files = elsewhere.call(_write, rows, folder)
    with measured() as values:
        start = time.monotonic()
        names = dataset.files(folder)
        listed = time.monotonic()
        assert len(names) == files
        assert dataset.count(folder) == rows
        counted = time.monotonic()
        shares = [Share.of(folder, n, _PARTITIONS).select(names) for n in range(1, _PARTITIONS + 1)]
        assert sum(map(len, shares)) == files
        divided = time.monotonic()
        first = dataset.read(folder, (Column("id", pa.string(), "unique"),)).limit(1).take_all()
        assert len(first) == 1
        read = time.monotonic()
    return values | {
        "files": files,
        "seconds_list": listed - start,
        "seconds_count": counted - listed,
        "seconds_divide": divided - counted,
        "seconds_first_row": read - divided,
    }


def _write(rows: int, folder: str) -> int:
    """Write the files. Returns their number."""
    per_file = min(rows, max(1, dataset.file_bytes(rows) // _BYTES_PER_DOCUMENT))
    os.makedirs(f"{folder}/data")
    number, left, original = 0, rows, ""
    while left:
        name = row_files.name_of(f"t{number:06}", min(per_file, left), 0)
        path = f"{folder}/data/{name}"
        if number % _LINKS:
            os.link(original, path)
        else:
            original = path
            dataset.write_table(pa.table({"id": [f"d{number}"], "text": ["a"]}), path)
        number, left = number + 1, left - min(per_file, left)
    Path(folder, "data", row_files.COMPLETE).touch()
    return number
