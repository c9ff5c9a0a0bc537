"""The parent of an engine process reports in one message which signal killed it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from safety_ray.compat.killed_children import killed_by, last_killed

PARENT = """
import multiprocessing, os, signal, sys, threading, time
from safety_ray.compat.killed_children import report_killed_children

def die(number):
    os.kill(os.getpid(), number) if number else sys.exit(3)
    time.sleep(60)

if __name__ == "__main__":
    report_killed_children()
    report_killed_children()
    spawn = multiprocessing.get_context("spawn")
    for name, number in [("VllmWorker-0", int(sys.argv[1])), ("VllmWorker-1", signal.SIGTERM),
                         ("VllmWorker-2", 0), ("Loader", signal.SIGKILL)]:
        child = spawn.Process(target=die, args=(number,), name=name)
        child.start()
        child.join()
    for thread in threading.enumerate():
        if thread.name == "KilledChild":
            thread.join()
"""


@pytest.mark.parametrize(("number", "name"), [(4, "SIGILL (Illegal instruction"), (9, "SIGKILL (Killed")])
def test_report_killed_children_names_signal_once(number: int, name: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    done = subprocess.run([sys.executable, script, str(number)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    [sentence] = done.stdout.splitlines()
    assert sentence.startswith(f"vLLM's process VllmWorker-0 was killed by {name}")


def test_last_killed_finds_message_in_log() -> None:
    log = f"(EngineCore pid=7) {killed_by('VllmWorker-0', 4)}\n(EngineCore pid=7) Traceback\nOSError: x\n"
    assert last_killed("first\n" + log) == killed_by("VllmWorker-0", 4)
    assert last_killed("vLLM's process is well\n") is None
