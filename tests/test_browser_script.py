"""scripts/browser.sh on machines with and without apt-get, root and sudo; the test installs nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "browser.sh"
APT = 'echo "apt-get $*" >> "{notes}"; case $1 in update) ;; install) {install} ;; esac'


class Machine:
    """A PATH with the few real tools that the script uses, and whatever `put` adds."""

    def __init__(self, folder: Path, user: int) -> None:
        self.bin, self.notes = folder / "bin", folder / "notes"
        self.bin.mkdir()
        for tool in ("bash", "env", "grep", "tail", "chmod"):
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        self.put("id", f"echo {user}")

    def put(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def apt(self, install: str) -> None:
        self.put("apt-get", APT.format(notes=self.notes, install=install))

    def run(self, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT)],
            env={"PATH": str(self.bin), **env},
            capture_output=True,
            text=True,
        )

    def refusal(self, **env: str) -> str:
        done = self.run(**env)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("no browser for the tests of the playground: ")
        return line

    @property
    def puts_chromium(self) -> str:
        return f': > "{self.bin}/chromium"; chmod +x "{self.bin}/chromium"'


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, user=0)


def test_browser_script_keeps_existing_browser(machine: Machine) -> None:
    machine.apt("exit 1")
    machine.put("google-chrome", "")
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not machine.notes.exists()


def test_browser_script_installs_chromium_as_root(machine: Machine) -> None:
    machine.apt(machine.puts_chromium)
    assert machine.run().returncode == 0
    asked = machine.notes.read_text().splitlines()
    assert asked == ["apt-get update", "apt-get install -y --no-install-recommends chromium"]
    assert machine.run().stdout == "", "a second run does nothing"


def test_browser_script_installs_with_sudo_for_non_root(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=1000)
    machine.apt(machine.puts_chromium)
    assert "installing it needs root; run: sudo apt-get install chromium" in machine.refusal()
    machine.put("sudo", 'shift; [ "$1" = true ] || "$@"')
    assert machine.run().returncode == 0
    assert "install -y" in machine.notes.read_text()


def test_browser_script_reports_install_failure_reason(machine: Machine) -> None:
    assert "apt-get is not here" in machine.refusal()
    machine.apt("echo 'E: Unable to locate package chromium' >&2; exit 100")
    assert "apt-get could not install chromium: E: Unable to locate package chromium" in machine.refusal()
    machine.apt("true")
    assert "no program of that name is on PATH" in machine.refusal()
    assert "SAFETY_RAY_BROWSER=/no/such is no program" in machine.refusal(SAFETY_RAY_BROWSER="/no/such")
