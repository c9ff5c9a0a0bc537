"""Whether the workers and the validation of a training run fit a cluster."""

from __future__ import annotations

import math

from safety_ray.core import device
from safety_ray.core.errors import UserError
from safety_ray.train.settings import TrainingConfig


def uses_gpus(config: TrainingConfig, gpus: float) -> bool:
    """Return whether the workers use GPUs in a cluster that has `gpus` of them."""
    return device.uses_gpus(config.device, gpus, needed=config.workers)


def check_fits(config: TrainingConfig, *, cpus: int, gpus: int) -> None:
    """Raise UserError if a cluster with `cpus` and `gpus` cannot run the workers and validation together.

    With `min_workers`, Ray Train takes up to `workers` GPUs whenever they are free, so a validation on a GPU
    needs one beside all of them.
    """
    validation = config.validation
    workers, key = config.min_workers or config.workers, "min_" * bool(config.min_workers) + "workers"
    validation_cpus = validation.cpus if validation.every else 0
    needed = workers * config.cpus_per_worker + validation_cpus
    if needed > cpus:
        raise UserError(
            f"{key}={workers} with cpus_per_worker={config.cpus_per_worker}"
            f"{f' and validation.cpus={validation_cpus}' * bool(validation_cpus)} need "
            f"{needed} CPUs and the cluster has {cpus}; use fewer, or set "
            "autoscale=true if the cluster autoscales."
        )
    of_workers = config.workers if uses_gpus(config, gpus) else 0
    if of_workers and workers > gpus:
        raise UserError(
            f"{key}={workers} need {workers} GPUs and the cluster has {gpus}; use fewer, or device=cpu."
        )
    of_validation = math.ceil(validation.gpus) if validation.every else 0
    if of_validation and of_workers + of_validation > gpus:
        raise UserError(
            f"validation.gpus={validation.gpus:g}: needs {of_validation} beside the {of_workers} of the "
            f"workers and the cluster has {gpus} GPUs; use fewer workers, or 0 to validate on CPUs."
        )
