"""An exchange of a job in a separate process, to be killed: `python exchange_job.py FOLDER NAME`.

The tasks that read the exchanged blocks come to the gate FOLDER/read. FOLDER/result.json has the result, and
FOLDER/done exists once the exchange has ended.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gate import gated

from jobs import ingest, rewrite, score
from safety_ray.classifier import deduplication
from safety_ray.core import dataset, digests
from safety_ray.core.config import from_dict
from safety_ray.core.records import DOCUMENT
from safety_ray.ingest import unique_ids
from safety_ray.llm.engine import USAGE
from safety_ray.pack import duplicates, lookups
from safety_ray.pack.settings import PackConfig
from safety_ray.rewrite import drafts, tasks
from safety_ray.rewrite.passes import Pass

FILES, ROWS, BLOCKS = 16, 60, 8
WRITE_BYTES = 10_000
READ = "read"


def write_pages(folder: Path) -> None:
    """Write web pages of which a third has the id and the text of an earlier one, in another file."""
    folder.mkdir(exist_ok=True)
    for file in range(FILES):
        numbers = [(file * ROWS + row) % (FILES * ROWS * 2 // 3) for row in range(ROWS)]
        lines = [{"id": f"page-{n}", "text": f"Page {n}. " + "x" * 200} for n in numbers]
        (folder / f"{file:02}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_documents(folder: Path) -> None:
    """Write scored documents of which a third has the text of an earlier one, in another file."""
    for file in range(FILES):
        numbers = range(file * ROWS, (file + 1) * ROWS)
        texts = [f"Text {n % (FILES * ROWS * 2 // 3)}. " + "x" * 200 for n in numbers]
        ids, scores = [f"document-{n}" for n in numbers], pa.array([0] * ROWS, pa.int8())
        rows = pa.table({"id": ids, "text": texts, "score": scores})
        dataset.write_table(rows, f"{folder}/{file:02}.parquet")


def write_chunks(folder: Path, characters: int = 0) -> None:
    """Write the drafts of chunks; those of a document are in different files.

    The text of each chunk begins with `characters` random ones.
    """
    noise = random.Random(0)
    for file in range(FILES):
        rows = [
            {
                "id": f"task-{row}-{file}", tasks.DOCUMENT_TASK: f"task-{row}", tasks.CHUNK: file,
                "text": f"{noise.randbytes(characters // 2).hex()}Chunk {file} of {row}.",
                tasks.SOURCE: f"Source {file}.", tasks.PROBLEM: None,
                "source_start": 0, "source_end": 9, **dict.fromkeys(USAGE, 1),
            }
            for row in range(ROWS)
        ]  # fmt: skip
        dataset.write_table(pa.Table.from_pylist(rows), f"{folder}/{file:02}.parquet")


def ids(folder: Path, output: Path) -> Any:
    """Return the documents and the rejected rows of an ingest."""
    ingest.ingest_documents(ingest.IngestConfig(input=str(folder), output=str(output)))
    found = {}
    for name in ("data", "rejected"):
        paths = sorted((output / name).rglob("*.parquet"))
        rows = [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]
        found[name] = sorted((row["id"], Path(row["source_file"]).name, row["text"]) for row in rows)
    return found


def texts(folder: Path, output: Path) -> Any:
    """Return the texts that `score` finds more than once, by their digests and those of their owners."""
    files = dataset.files(str(folder))
    shared, copies = score.find_duplicates(dataset.read(str(folder), DOCUMENT), FILES * ROWS, len(files))
    found = shared.get()
    return [copies, as_list(found.keys.high), as_list(found.owner_high), as_list(found.owner_low)]


def copies(folder: Path, output: Path) -> Any:
    """Return the copies that `pack` finds, by the digests of their ids."""
    config = PackConfig(scored=str(folder), output=str(output), row_length=64)
    found = lookups.find_copies(config, 0.1, FILES * ROWS).get()
    return [as_list(found.ids.high), found.heldout.tolist()]


def chunks(folder: Path, output: Path) -> Any:
    """Return the documents that `rewrite` joins from chunks."""
    values = {"scored": "unused", "output": str(output), "write_rows": ROWS, "engine": {"kind": "template"}}
    config = from_dict(rewrite.RewriteConfig, values)
    steps = rewrite.steps_of(config, Pass("direct", long=True, attempt=1, template=True))
    (join,) = (step for step in steps if step.name == "joined")
    rows = rewrite.Rows(dataset.read(str(folder), ()), FILES * ROWS, resume_by="id", read_as="id")
    return sorted((row["id"], row["text"]) for row in join.apply(rows).ds.take_all())


def as_list(values: Any) -> list[int]:
    return [int(value) for value in np.asarray(values)]


EXCHANGES: dict[str, tuple[Callable[[Path], None], Callable[[Path, Path], Any], Any, str]] = {
    "ids": (write_pages, ids, unique_ids, "repeated"),
    "rejected": (write_pages, ids, unique_ids, "reject_rows"),
    "texts": (write_documents, texts, deduplication, "duplicates"),
    "copies": (write_documents, copies, duplicates, "copies_among"),
    "chunks": (write_chunks, chunks, drafts, "join_chunks"),
}
"""By name: the input, the exchange, and the function that reads its blocks, with the module"""


def main(folder: Path, name: str) -> None:
    with killed.job(folder):
        rows = FILES * ROWS // (BLOCKS - 1)
        ingest._KEYS_PER_BLOCK = digests.ROWS_PER_BLOCK = rewrite._DOCUMENTS_PER_BLOCK = rows
        dataset._MAX_BYTES = WRITE_BYTES
        _, run, module, reader = EXCHANGES[name]
        setattr(module, reader, gated(getattr(module, reader), folder / READ))
        result = run(folder / "in", folder / "out")
        (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
