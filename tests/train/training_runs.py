"""Training runs for the tests: in this process, or in separate processes as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from safety_ray.core import dataset
from safety_ray.core.config import dump, from_dict
from safety_ray.core.ports import free_port
from safety_ray.train.loop import train
from safety_ray.train.metrics import Metrics
from safety_ray.train.settings import PretrainConfig

TINY = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 2, "intermediate_size": 64}
SKIP = {"on_bad_step": "skip", "spike": 1.4, "lr": 1e-2, "max_steps": 30}
NOISY: dict[str, Any] = {"rows": 240, "noise": range(168, 184)}
"""Rows in which steps 22 and 23 (8 rows each) are noise"""
CPU = torch.device("cpu")


def settings(rows: str, output: Path | str, **more: Any) -> PretrainConfig:
    base = {
        "batch_rows": 8, "max_steps": 12, "checkpoint_every": 4, "log_every": 1,
        "workers": 1, "precision": "fp32", "model": TINY,
    }  # fmt: skip
    return from_dict(PretrainConfig, {**base, "rows": rows, "output": str(output), **more})


def run(config: PretrainConfig, report: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    return train(config, config.model, config.rows, device=CPU, report=report)


def losses(output: str | Path) -> list[tuple[int, float, float | None]]:
    return [(line["step"], line["loss"], line["tag_loss"]) for line in Metrics(str(output)).lines()]


def start(config: PretrainConfig, world: int = 1, per_node: int = 0) -> list[subprocess.Popen[bytes]]:
    """Start the training loop in separate processes, as torchrun starts them."""
    omitted = ("model", "loggers", "validation")
    words = [f"{key}={value}" for key, value in dump(config).items() if key not in omitted]
    words += [f"model.{key}={value}" for key, value in dump(config)["model"].items()]
    command = [sys.executable, "-m", "safety_ray.train.loop", *words]
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(per_node or world),
    }
    return [
        subprocess.Popen(command, env={**os.environ, **environment, "RANK": str(n), "LOCAL_RANK": str(n)})
        for n in range(world)
    ]


def with_heldout(folder: Path, write_rows: Callable[..., str]) -> str:
    """Write token rows with twelve held-out documents from two sources."""
    write_rows(folder, length=64)
    text = "the quick brown fox jumps over the lazy dog and runs away from the angry bear"
    words = text.split()
    texts = [" ".join(words[n:] + words[:n]) + f" {n}" for n in range(12)]
    table = {
        "id": [f"h{n}" for n in range(12)],
        "text": texts,
        "label": pa.array([0, 1, 2, 3, 4, 5] * 2, pa.int8()),
        "source": ["web", "web", "web", "forum", "forum", "forum"] * 2,
    }
    dataset.write_table(pa.table(table), str(folder / "heldout" / "heldout.parquet"))
    return str(folder)


def validated_settings(rows: str, output: Path, **validation: Any) -> PretrainConfig:
    return from_dict(
        PretrainConfig,
        {
            "rows": rows, "output": str(output), "model": TINY, "batch_rows": 8, "log_every": 1, "workers": 2,
            "precision": "fp32", "max_steps": 12, "checkpoint_every": 4, "keep": 1, "epochs": 9.0,
            "loggers": ["tensorboard"], "validation": {"every": 1, **validation},
        },
    )  # fmt: skip


def skipped(output: str | Path) -> dict[int, str]:
    """Return the reasons of skipped steps."""
    return {
        line["step"]: line["skip_reason"] for line in Metrics(str(output)).lines() if "skip_reason" in line
    }
