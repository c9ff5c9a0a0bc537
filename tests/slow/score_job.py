"""A scoring job in a separate process, to be killed: `python score_job.py FOLDER CLASSIFIER ACTORS`.

Its scorer records each completed row in FOLDER/seen/<pid>, and pauses once the number of rows reaches
the limit in FOLDER/allowed. FOLDER/done exists once the job has returned.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import killed
import pyarrow as pa
from score_runs import BATCH

from jobs import score
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.batches import ScoreBatch, add_scores
from safety_ray.classifier.classifier import Prediction


def scorer(folder: Path) -> type:
    class Noting(ScoreBatch):
        def __init__(self, *settings: Any, **named: Any) -> None:
            super().__init__(*settings, **named)
            (folder / "seen").mkdir(exist_ok=True)
            (folder / "seen" / str(os.getpid())).touch()

        def score(self, batch: pa.Table) -> pa.Table:
            while _noted(folder) >= int((folder / "allowed").read_text()):
                time.sleep(0.1)
            found = add_scores(batch, lambda texts: [_prediction(text) for text in texts])
            with (folder / "seen" / str(os.getpid())).open("a") as file:
                file.write("".join(f"{id}\n" for id in batch.column("id").to_pylist()))
            return found

    return Noting


def _noted(folder: Path) -> int:
    return sum(file.read_text().count("\n") for file in (folder / "seen").iterdir())


def _prediction(text: str) -> Prediction:
    score = len(text) % 6
    return Prediction(score, [1.0 if n == score else 0.0 for n in range(6)], [score])


def main(folder: Path, classifier: str, actors: int) -> None:
    with killed.job(folder, prefer_second=False):
        score.ScoreBatch = scorer(folder)  # type: ignore[misc]
        score_documents(
            ScoreConfig(
                documents=str(folder / "in"), output=str(folder / "out"), classifier=classifier,
                actors=actors, batch_rows=BATCH, write_rows=BATCH,
            )
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
