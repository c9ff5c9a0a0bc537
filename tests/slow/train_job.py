"""The pretrain job in a separate process, to be killed: `python train_job.py FOLDER key=value...`.

It does what `python -m jobs.pretrain key=value...` does, but its workers pause after a step that is above the
number in FOLDER/allowed. FOLDER/done exists once the job has returned.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import killed

from jobs import cli, pretrain


def pausing(folder: Path) -> Any:
    """Return a function for the workers of Ray Train that pauses at steps."""

    def pause(line: dict[str, Any]) -> None:
        while line["step"] > int((folder / "allowed").read_text()):
            time.sleep(0.1)

    def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
        from jobs import pretrain

        pretrain.train = partial(pretrain.train, report=pause)
        return pretrain.train_worker(settings)

    return train_worker


def main(folder: Path, words: list[str]) -> None:
    with killed.job(folder, prefer_second=False):
        pretrain.train_worker = pausing(folder)
        cli.main("pretrain", words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
