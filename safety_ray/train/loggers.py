"""Loggers of a run's metrics: TensorBoard, Weights & Biases and MLflow.

A resumed run continues its logs. Servers, keys and offline modes are set by the loggers' own environment
variables, such as WANDB_MODE and MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


class Logger(Protocol):
    """A destination of metrics."""

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def check(names: list[str], output: str) -> None:
    """Raise UserError if the package of a logger is not installed, or it cannot write to `output`."""
    for name in names:
        _package(name)
    if "tensorboard" in names and not filesystem.is_local(output):
        raise UserError(
            f"loggers: tensorboard writes files, which output={output} does not support; use wandb, mlflow "
            "or a folder as output."
        )


class Loggers:
    """All loggers of a run.

    Args:
        names: the loggers.
        output: output folder of the run.
        first: number of steps that are done already, if the run is resumed.
        settings: the config, logged once.
    """

    def __init__(self, names: list[str], output: str, first: int, settings: dict[str, Any]) -> None:
        self._loggers = [_KINDS[name](output, first, settings) for name in names]

    def log(self, line: dict[str, Any]) -> None:
        """Log the numbers of a line of metrics.jsonl."""
        self._log(line["step"], {key.replace("loss_", "loss/"): value for key, value in line.items()})

    def validated(self, line: dict[str, Any]) -> None:
        """Log the numbers of a line of validation.jsonl.

        Validation finishes after later steps were logged, so `validation/step` is the validated step.
        """
        self._log(line["step"], {f"validation/{key}": value for key, value in line.items()})

    def _log(self, step: int, line: dict[str, Any]) -> None:
        values = {
            key: float(value)
            for key, value in line.items()
            if key != "step" and isinstance(value, int | float)
        }
        for logger in self._loggers:
            logger.log(step, values)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


class _TensorBoard:
    def __init__(self, output: str, first: int, settings: dict[str, Any]) -> None:
        folder = Path(output) / "tensorboard"
        self._writer = _package("tensorboard").SummaryWriter(
            str(folder),
            purge_step=first + 1 if first else None,
            filename_suffix=f".{first:08}",  # default names have a resolution of one second
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, output: str, first: int, settings: dict[str, Any]) -> None:
        self._run = _package("wandb").init(
            dir=output if filesystem.is_local(output) else None, name=Path(output).name, config=settings,
            **_same_run(f"{output}/wandb_id"),
        )  # fmt: skip
        self._last = first

    def log(self, step: int, values: dict[str, float]) -> None:
        self._last = max(step, self._last)  # wandb drops values of earlier steps
        self._run.log(values, step=self._last)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, output: str, first: int, settings: dict[str, Any]) -> None:
        self._mlflow = _package("mlflow")
        run_id = _read(f"{output}/mlflow_id") or None
        run = self._mlflow.start_run(run_id=run_id, run_name=None if run_id else Path(output).name)
        if run_id is None:
            _write(f"{output}/mlflow_id", run.info.run_id)
            self._mlflow.log_dict(settings, "config.json")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_KINDS: dict[str, Callable[[str, int, dict[str, Any]], Logger]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def _same_run(id_file: str) -> dict[str, Any]:
    """Return the arguments with which wandb continues the run of an interrupted training."""
    id = _read(id_file)
    if not id:
        id = secrets.token_hex(4)
        _write(id_file, id)
    return {"id": id, "resume": "allow"}


def _read(path: str) -> str:
    """Return the content of a file; empty if there is none."""
    fs, root = filesystem.find(path)
    return str(fs.cat_file(root).decode()) if fs.exists(root) else ""


def _write(path: str, content: str) -> None:
    fs, root = filesystem.find(path)
    fs.pipe_file(root, content.encode())


def _package(name: str) -> Any:
    """Import the package of a logger, which is optional. Raises UserError if it is not installed."""
    try:
        if name == "tensorboard":
            import tensorboardX as package
        elif name == "wandb":
            import wandb as package
        else:
            import mlflow as package
        return package
    except ImportError as error:
        raise UserError(
            f"loggers: '{name}' needs a package that is not installed: pip install {_PACKAGES[name]}."
        ) from error
