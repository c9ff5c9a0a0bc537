"""The pack job in a separate process, to be killed: `python pack_job.py FOLDER key=value...`.

It does what `python -m jobs.pack key=value...` does, but its workers come to the gate FOLDER/encode with each
batch of documents and to FOLDER/shards with each shard, and a write task has one batch. FOLDER/done exists
once the job has returned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import killed
from gate import gated

from jobs import cli, pack
from safety_ray.core import dataset
from safety_ray.pack import shards

ENCODE, SHARDS = "encode", "shards"


def main(folder: Path, words: list[str]) -> None:
    with killed.job(folder):
        dataset._MIN_BYTES = 1
        pack.encode_watched = gated(pack.encode_watched, folder / ENCODE)
        shards.write_shards = gated(shards.write_shards, folder / SHARDS)
        cli.main("pack", words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
