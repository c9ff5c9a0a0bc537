"""The demo pipeline in miniature with random kills, compared with an undisturbed run.

    python -m benchmarks.chaos seeds=10

Each run has a Ray cluster of two nodes on this machine. Workers, actors, the second node (with or without
notice), the driver and the head are killed with SIGKILL. Killed nodes are replaced, and a driver that ended
is started again with the same command. The times between kills are random parts of the time that an
undisturbed run takes, so that kills reach all stages on any machine, and their number is limited, so that
every run ends.

Prints one line per seed: kills by kind; drivers that ended although they were not killed; rows that the
undisturbed run has and this one has not; rows that a stage before training processed again; seconds more than
the undisturbed run; and what differs in rows, counts, weights and losses. Then one line per stage: the kills
before it had finished and after the one before it had.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.chaos.driver import STAGES, stages
from benchmarks.chaos.kills import KINDS, Chaos
from benchmarks.chaos.outputs import contents, differences, repeated
from jobs.corpus import SCHEMA, documents
from safety_ray.core import dataset
from safety_ray.core.artifact import is_finished
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.job import main

_CORPUS, _DOCUMENTS, _FILES = 560, 96, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosBenchmark:
    """Kill processes of the demo pipeline at random and compare its outputs with an undisturbed run."""

    seeds: int = setting("number of disturbed runs", default=10)
    first_seed: int = setting("seed of the first of them", default=0)
    kills: int = setting("kills of each run, at most", default=12)
    kinds: list[str] = setting(f"what is killed: {', '.join(KINDS)}", factory=lambda: list(KINDS))
    per_run: int = setting(
        "kills in the time that an undisturbed run takes; with many, they all hit the first stages", default=5
    )
    folder: str = setting(
        "folder that keeps the runs: finished ones are not run again; empty: a temporary one", default=""
    )

    def __post_init__(self) -> None:
        if min(self.seeds, self.kills, self.per_run) < 1:
            raise UserError("seeds, kills and per_run must be at least 1.")
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise UserError(f"kinds={unknown[0]} is unknown; choose from {', '.join(KINDS)}.")
        if not self.kinds:
            raise UserError(f"kinds is empty; choose from {', '.join(KINDS)}.")


@dataclass
class Run:
    """A run of the pipeline that has ended."""

    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    """by "<first unfinished stage> <kind>" """
    failed: int = 0
    """drivers that ended with an error although they were not killed"""

    def of(self, kind: str) -> int:
        """Return the number of kills of a kind."""
        return sum(number for name, number in self.kills.items() if name.split()[1] == kind)


def write_input(folder: Path) -> None:
    """Write documents of the demo's corpus, of all its scores, as several files."""
    rows = documents(_CORPUS, 0)
    rows = rows[:: len(rows) // _DOCUMENTS][:_DOCUMENTS]
    for n in range(_FILES):
        table = pa.Table.from_pylist(rows[n::_FILES], SCHEMA)
        dataset.write_table(table, str(folder / f"{n}.parquet"))


def start_driver(folder: Path, address: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos.driver", str(folder)],
            env={**os.environ, "RAY_ADDRESS": address}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def run_pipeline(
    folder: Path, seed: int = 0, kills: int = 0, interval: float = 0.0, kinds: Collection[str] = KINDS
) -> Run:
    """Run the pipeline to its end, with up to `kills` kills, one in `interval` seconds on average."""
    result = folder / "result.json"
    if result.exists():
        values = json.loads(result.read_text())
        return Run(**{**values, "kills": Counter(values["kills"])})
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chaos, run, unharmed = Chaos(seed, kinds), Run(), 0
    started = time.monotonic()
    try:
        while not (folder / "done").exists():
            before = run.kills.total()
            driver, killed = start_driver(folder, chaos.head.address), set[str]()
            while driver.poll() is None:
                wait = interval * chaos.random.uniform(0.5, 1.5) if run.kills.total() < kills else None
                try:
                    driver.wait(wait)
                except subprocess.TimeoutExpired:
                    stage = unfinished(folder)
                    kind, title = chaos.kill(driver)
                    if kind:
                        killed.add(kind)
                        run.kills[f"{stage} {kind}"] += 1
                        note(folder, f"killed during {stage}: {kind} {title}")
            # A driver ends up to a minute after its head, and something else may be killed meanwhile.
            if not (folder / "done").exists() and not killed & {"driver", "head"}:
                run.failed += 1
                note(folder, f"the driver ended with code {driver.returncode}")
                unharmed = 0 if run.kills.total() > before else unharmed + 1
                if unharmed > 1:  # the first one may have met a node that was being lost
                    raise RuntimeError(f"the pipeline fails without a kill; see {folder}/log")
    finally:
        run.seconds = time.monotonic() - started
        chaos.stop()
    result.write_text(json.dumps(vars(run)))
    return run


def unfinished(folder: Path) -> str:
    """Return the first stage of the pipeline of a run that has not finished."""
    return next((name for name in stages(folder) if not is_finished(f"{folder}/runs/{name}")), "end")


def note(folder: Path, text: str) -> None:
    with (folder / "log").open("a") as log:
        log.write(f"==== {time.strftime('%H:%M:%S')} {text}\n")


def measure(config: ChaosBenchmark) -> dict[str, Any]:
    """Print the table."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = Path(config.folder or tempfile.mkdtemp(prefix="chaos")).absolute()
    if not (folder / "documents").exists():
        write_input(folder / "documents")
    undisturbed = run_pipeline(folder / "undisturbed")
    expected = contents(folder / "undisturbed" / "runs")
    again, rows = repeated(folder / "undisturbed" / "seen", STAGES)
    print(f"undisturbed: {undisturbed.seconds:.0f} s, {rows} rows noted, {again} of them again\n")
    columns = ["seed", *KINDS, "failed drivers", "rows lost", "rows repeated", "extra seconds", "differs"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    failed, kills = False, Counter[str]()
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        interval = undisturbed.seconds / config.per_run
        run = run_pipeline(folder / f"seed-{seed}", seed, config.kills, interval, config.kinds)
        kills += run.kills
        lost, different = differences(expected, contents(folder / f"seed-{seed}" / "runs"))
        again, rows = repeated(folder / f"seed-{seed}" / "seen", STAGES)
        values = [
            seed, *map(run.of, KINDS), run.failed, lost, f"{again / rows:.1%}",
            f"{run.seconds - undisturbed.seconds:.0f}", ", ".join(different) or "nothing",
        ]  # fmt: skip
        print(f"| {' | '.join(map(str, values))} |", flush=True)
        failed |= bool(different)
    print(f"\n| killed during | {' | '.join(KINDS)} |\n|{'---|' * (1 + len(KINDS))}")
    for stage in (*stages(folder / "undisturbed"), "end"):
        print(f"| {stage} | {' | '.join(str(kills[f'{stage} {kind}']) for kind in KINDS)} |")
    if failed:
        raise SystemExit(f"outputs differ from those of the undisturbed run; see {folder}")
    if not config.folder:
        shutil.rmtree(folder)
    return {}


if __name__ == "__main__":
    main(ChaosBenchmark, measure)
