"""The figures of a training in TensorBoard, Weights & Biases or MLflow, for those who ask for one.

Each goes on where a broken run stopped; their own settings (server, key, offline) are their own
environment variables: WANDB_MODE, MLFLOW_TRACKING_URI and the like.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from safety_ray.core.errors import UserError

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


class Logger(Protocol):
    def log(self, step: int, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def check(names: list[str]) -> None:
    """Raise UserError where a logger's package is not installed."""
    for name in names:
        _package(name)


class Loggers:
    """All loggers of a run. `first` is the step it goes on from, `settings` what is shown beside."""

    def __init__(self, names: list[str], output: str, first: int, settings: dict[str, Any]) -> None:
        self._loggers = [_KINDS[name](output, first, settings) for name in names]

    def log(self, line: dict[str, Any]) -> None:
        """The numbers of a line of metrics.jsonl."""
        self._log(line["step"], {key.replace("loss_", "loss/"): value for key, value in line.items()})

    def validated(self, line: dict[str, Any]) -> None:
        """The numbers of a line of validation.jsonl, which is late: `validation/step` says of which step."""
        self._log(line["step"], {f"validation/{key}": value for key, value in line.items()})

    def _log(self, step: int, named: dict[str, Any]) -> None:
        figures = {
            key: float(value)
            for key, value in named.items()
            if key != "step" and isinstance(value, int | float)
        }
        for logger in self._loggers:
            logger.log(step, figures)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


class _TensorBoard:
    def __init__(self, output: str, first: int, settings: dict[str, Any]) -> None:
        folder = Path(output) / "tensorboard"
        self._writer = _package("tensorboard").SummaryWriter(
            str(folder),
            purge_step=first + 1 if first else None,
            filename_suffix=f".{first:08}",  # its own name has seconds, and would be taken twice in one
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, output: str, first: int, settings: dict[str, Any]) -> None:
        self._run = _package("wandb").init(
            dir=output, name=Path(output).name, config=settings, **_same_run(Path(output) / "wandb_id")
        )
        self._last = first

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._last = max(step, self._last)  # wandb drops what belongs to a step before the last one
        self._run.log(figures, step=self._last)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, output: str, first: int, settings: dict[str, Any]) -> None:
        self._mlflow = _package("mlflow")
        note = Path(output) / "mlflow_id"
        known = note.read_text() if note.exists() else None
        run = self._mlflow.start_run(run_id=known, run_name=None if known else Path(output).name)
        if known is None:
            note.write_text(run.info.run_id)
            self._mlflow.log_dict(settings, "config.json")

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._mlflow.log_metrics(figures, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_KINDS: dict[str, Callable[[str, int, dict[str, Any]], Logger]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def _same_run(note: Path) -> dict[str, Any]:
    """How wandb finds the run again that a broken training began."""
    if not note.exists():
        note.write_text(secrets.token_hex(4))
    return {"id": note.read_text(), "resume": "allow"}


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
