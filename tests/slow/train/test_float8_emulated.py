"""Training in float8, emulated on a CPU: losses close to those in bf16, and the same weights to export.

torchao is installed beside this environment, into the cache of pytest, because transformers imports it
if it is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_environment import beside

pytestmark = pytest.mark.covers("safety_ray.train")
ROOT = Path(__file__).parents[3]
MATRICES = 2 * 7  # of two blocks


@pytest.fixture(scope="module")
def printed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_rows: Callable[..., str]
) -> dict[str, Any]:
    """Return the output of float8_losses.py."""
    folder = beside(Path(request.config.cache.mkdir("torchao")), "fp8.txt")
    rows = write_rows(tmp_path_factory.mktemp("float8") / "rows", length=33)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("float8_losses.py")), rows],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def ways(printed: dict[str, Any]) -> dict[str, Any]:
    """Return what each way of training did."""
    found: dict[str, Any] = printed["ways"]
    return found


def test_float8_losses_are_close_to_bf16_and_not_equal(ways: dict[str, Any]) -> None:
    for name in ("fp8", "fp8, compiled", "fp8, compiled, recomputed", "fp8, compiled, adapters"):
        plain = "bf16, adapters" if "adapters" in name else "bf16"
        exact, rounded = ways[plain]["losses"], ways[name]["losses"]
        assert rounded == pytest.approx(exact, rel=0.05), name
        assert rounded != exact, name
    assert ways["fp8"]["losses"][-1] < 0.6 * ways["fp8"]["losses"][0]


def test_float8_recomputed_losses_are_equal(ways: dict[str, Any]) -> None:
    assert ways["fp8, recomputed"]["losses"] == ways["fp8"]["losses"]


def test_float8_converts_layers_of_blocks_whose_sizes_fit(ways: dict[str, Any]) -> None:
    assert ways["bf16"]["layers"] == 0
    assert ways["fp8"]["layers"] == MATRICES
    assert ways["fp8, odd width"]["layers"] == 2 * 4  # those of attention
    assert ways["fp8, compiled, adapters"]["layers"] == 3 * MATRICES


def test_float8_exports_weights_of_bf16(ways: dict[str, Any]) -> None:
    names = {tuple(way["names"]) for way in ways.values()}
    assert len(names) == 1


def test_float8_takes_any_number_of_tokens(printed: dict[str, Any]) -> None:
    """The kernels need multiples of 16 in the product for the gradient of weights, too."""
    assert {int(tokens) % 16 for tokens in printed["shape_errors"]} == {0, 1, 8}
    assert set(printed["shape_errors"].values()) == {""}


def test_float8_training_loop_exports_model(printed: dict[str, Any]) -> None:
    assert len(printed["loop"]) == 6
    assert printed["loop"][-1] < printed["loop"][0]
