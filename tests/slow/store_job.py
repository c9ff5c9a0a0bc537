"""Ingest, score and pack in a separate process: `python store_job.py FOLDER`.

The score of a text is its length modulo six, because classifying megabytes of text takes minutes.
FOLDER/<stage> has the output of each stage, and FOLDER/spilled what Ray reports about spilled objects.
FOLDER/done exists once the job has returned.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs import score
from jobs.ingest import IngestConfig, ingest_documents
from jobs.pack import PackConfig, pack_documents
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.batches import ScoreBatch, add_scores
from safety_ray.classifier.classifier import Prediction
from safety_ray.core.job import quiet


class ByLength(ScoreBatch):
    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, batch: pa.Table) -> pa.Table:
        return add_scores(batch, lambda texts: [_prediction(text) for text in texts])


def _prediction(text: str) -> Prediction:
    score = len(text) % 6
    return Prediction(score, [1.0 if n == score else 0.0 for n in range(6)], [score])


def main(folder: Path) -> None:
    quiet()
    import ray

    # Ray Data starts one task in ten seconds where a block of the largest size (128 MB) does not fit.
    ray.data.DataContext.get_current().target_max_block_size = 4 << 20
    score.ScoreBatch = ByLength  # type: ignore[misc]
    ingest_documents(IngestConfig(input=f"{folder}/in", output=f"{folder}/ingest"))
    score_documents(ScoreConfig(documents=f"{folder}/ingest", output=f"{folder}/score", actors=1))
    pack_documents(
        PackConfig(
            scored=f"{folder}/score", output=f"{folder}/pack", vocab_size=512, row_length=4096,
            raw_scores=list(range(6)), recipes=[], heldout_share=0.0, shards=2,
        )
    )  # fmt: skip
    summary = ray._private.internal_api.memory_summary(stats_only=True)
    spilled = [line for line in summary.splitlines() if line.startswith("Spilled")]
    (folder / "spilled").write_text("\n".join(spilled))
    (folder / "done").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
