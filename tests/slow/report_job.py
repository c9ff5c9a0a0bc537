"""The report job in a separate process, to be killed: `python report_job.py FOLDER key=value...`.

It does what `python -m jobs.report key=value...` does, but its tasks come to the gate FOLDER/count with each
batch. FOLDER/done exists once the job has returned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import killed
from gate import gated

from jobs import cli, report

COUNT = "count"


def main(folder: Path, words: list[str]) -> None:
    with killed.job(folder):
        report.count_originals_of = gated(report.count_originals_of, folder / COUNT)
        report.count_rewritten = gated(report.count_rewritten, folder / COUNT)
        cli.main("report", words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
