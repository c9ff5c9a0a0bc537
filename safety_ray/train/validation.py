"""Settings of validation: measurement of checkpoints during training."""

from __future__ import annotations

from dataclasses import dataclass

from safety_ray.core.declare import setting
from safety_ray.core.errors import UserError
from safety_ray.evaluate.settings import MeasurementConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig(MeasurementConfig):
    """Measure checkpoints during training, on documents that are not trained on."""

    every: int = setting("validate every n-th checkpoint and the last one; 0: none", default=0)
    documents: list[str] = setting(
        "datasets with id, text and label or score; empty: the documents that packing held out",
        factory=list,
    )
    max_documents: int = setting("number of safe and of unsafe documents", default=100)
    classifier: str = setting(
        "folder of a fit, or `default`, the shipped classifier: judges continuations of prompts; empty: no "
        "continuations",
        default="",
    )
    trust_remote_code: bool = setting(
        "run code that comes with the classifier or its encoder, if the classifier needs it",
        default=False,
        identity=False,
    )
    max_prompts: int = setting("number of prompts, from unsafe documents", default=20)
    cpus: int = setting(
        "CPUs and threads, in addition to those of the workers; 0: shares theirs", default=1, identity=False
    )
    gpus: float = setting(
        "GPUs, in addition to those of the workers; 0: runs on the CPU", default=0.0, identity=False
    )
    timeout_s: float = setting(
        "seconds after which a validation is cancelled", default=3600.0, identity=False
    )

    def __post_init__(self) -> None:
        if self.every < 0 or self.cpus < 0 or self.gpus < 0:
            raise UserError("validation: every, cpus and gpus must be at least 0.")
        self.check("validation.")
        if self.max_prompts < 1:
            raise UserError(f"validation.max_prompts={self.max_prompts} must be at least 1.")
        if not self.timeout_s > 0:
            raise UserError(f"validation.timeout_s={self.timeout_s} must be above 0.")
