"""The runs of score_job.py, as a test sees them that pauses and ends them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
from killed import checkpointed

from safety_ray.core import dataset
from safety_ray.core.artifact import read_record

ROWS, BATCH = 1600, 8


def write_documents(folder: Path) -> None:
    """Write the documents to FOLDER/in."""
    table = pa.table(
        {"id": [f"d{n:04}" for n in range(ROWS)], "text": [f"text {n} " + "x" * (n % 7) for n in range(ROWS)]}
    )
    for n in range(4):
        dataset.write_table(table.slice(n * ROWS // 4, ROWS // 4), str(folder / "in" / f"{n}.parquet"))


def seen(folder: Path) -> dict[int, list[str]]:
    """Return the ids completed by each actor's process; the last line may be incomplete."""
    return {int(f.name): f.read_text().split("\n")[:-1] for f in (folder / "seen").glob("*")}


def times(folder: Path) -> Counter[str]:
    """Return how often each row was scored."""
    return Counter(id for ids in seen(folder).values() for id in ids)


def times_of_checkpointed(folder: Path) -> dict[str, int]:
    """Return how often the rows that have been checkpointed were scored until now."""
    kept = checkpointed(folder / "out")
    done = times(folder)
    return {id: done[id] for id in kept}


def done_twice(folder: Path) -> set[str]:
    return {id for id, number in times(folder).items() if number > 1}


def check_output(folder: Path) -> None:
    """Check that the output is complete and each row has the score of its text."""
    record = read_record(str(folder / "out"))
    assert record is not None
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (ROWS, ROWS, 0)
    found = dataset.table(str(folder / "out"))
    assert found.column("id").to_pylist() == [f"d{n:04}" for n in range(ROWS)]
    assert [len(t) % 6 for t in found.column("text").to_pylist()] == found.column("score").to_pylist()
