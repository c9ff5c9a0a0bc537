"""The GPU benchmark runs to its end with torch and transformers only; here on a CPU, with tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.covers(
    "benchmarks.gpu", "safety_ray.train", "safety_ray.decode.hf", "safety_ray.classifier.encoder"
)
ROOT = Path(__file__).parents[2]
_WITHOUT = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "omegaconf", "pyarrow", "pytest"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Missing())
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


def test_gpu_benchmark_runs_without_ray_and_omegaconf(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    subprocess.run(
        [sys.executable, "-c", _WITHOUT, "device=cpu", "tiny=true", f"out={out}"],
        cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    results = json.loads(out.read_text())
    assert all(result["passed"] for result in results["tests"].values())
    assert results["train"].pop("tiny, documents, block mask")["error"].startswith("UserError")
    if find_spec("torchao") is None:
        without = results["train"].pop("tiny, compiled, loss too, fp8")
        assert without["error"].startswith("UserError: fp8=true: torchao is not installed")
    assert [case for part in results.values() for case in part.values() if "error" in case] == []
    assert all(case["losses"][1] < case["losses"][0] for case in results["train"].values())
    assert results.keys() == {"machine", "tests", "train", "score", "decode"}
