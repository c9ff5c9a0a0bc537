"""Memory of the driver, and time, of the steps that compare all documents of a corpus: one table.

    python -m benchmarks.scale rows=[1000000,10000000]
    python -m benchmarks.scale rows=[100000000] parts=[resume] folder=/data/tmp

The corpora are simulated: they have ids and places, or texts of one number, but no documents. Each row of
the table is measured in a process of its own, which is the driver of a local Ray cluster. `driver_mb` is the
peak of its memory above that before the step; `store_mb` is what every node holds in Ray's object store.
In part `reading`, rows are token rows of one shard, for example rows=[49152].
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.scale import count, heldout, ids, metadata, packing, reading, repeats, resume
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.job import main

PARTS = {
    "ids": ids.run,
    "repeats": repeats.run,
    "resume": resume.run,
    "count": count.run,
    "metadata": metadata.run,
    "pack": packing.run,
    "heldout": heldout.run,
    "reading": reading.run,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleBenchmark:
    """Measure steps that compare all documents, on simulated corpora."""

    rows: list[int] = setting("numbers of documents", factory=lambda: [1_000_000, 10_000_000])
    parts: list[str] = setting(f"parts: {', '.join(PARTS)}", factory=lambda: list(PARTS))
    folder: str = setting("folder for the corpora, which are deleted; empty: a temporary one", default="")

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"parts: unknown {', '.join(unknown)}; choose from {', '.join(PARTS)}.")
        if min(self.rows, default=0) < 1:
            raise UserError("rows must have at least one number, and only positive ones.")


def run(config: ScaleBenchmark) -> dict[str, Any]:
    """Print the table."""
    print(f"{os.cpu_count()} CPU cores\n\n| part | documents | measured |\n|---|---|---|")
    for part in config.parts:
        for rows in config.rows:
            folder = tempfile.mkdtemp(dir=config.folder or None)
            try:
                # A new process: its peak is that of one part.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    values = pool.submit(PARTS[part], rows, folder).result()
            finally:
                shutil.rmtree(folder)
            measured = ", ".join(f"{name} {value:,.1f}" for name, value in values.items())
            print(f"| {part} | {rows:,} | {measured} |", flush=True)
    return {}


if __name__ == "__main__":
    main(ScaleBenchmark, run)
