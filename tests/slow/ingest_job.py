"""An ingest job in a separate process, to be killed: `python ingest_job.py FOLDER`.

It records each input file that it begins to read in FOLDER/read. In the middle of each file `*slow.jsonl`, it
comes to the gate FOLDER/slow. FOLDER/done exists once the job has returned.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gate
import killed
import pyarrow as pa
import ray.data

from jobs import ingest
from safety_ray.core import dataset

WRITE_BYTES, BLOCK_BYTES, MAX_BYTES = 90_000, 30_000, 6000


def main(folder: Path) -> None:
    with killed.job(folder):
        dataset._MAX_BYTES = WRITE_BYTES
        ray.data.DataContext.get_current().target_max_block_size = BLOCK_BYTES
        read_watched = ingest.read_watched

        def read(file: str, *settings: Any) -> Iterator[pa.Table]:
            with (folder / "read").open("a") as log:
                log.write(f"{Path(file).name}\n")
            for table in read_watched(file, *settings):
                half = len(table) // 2
                yield table.slice(0, half)
                if file.endswith("slow.jsonl"):
                    gate.come(folder / "slow")
                yield table.slice(half)

        ingest.read_watched = read
        ingest.ingest_documents(
            ingest.IngestConfig(input=str(folder / "in"), output=str(folder / "out"), max_bytes=MAX_BYTES)
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
