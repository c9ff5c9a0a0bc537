"""Settings of the measurement of judges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.evaluate.judges import JUDGES, find, measured
from safety_ray.judge.settings import Judge


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgesBenchmark:
    """Measure judges of model answers against human labels."""

    data: str = setting("folder of real data with refusal_judge/")
    pyrit: str = setting("wheel of PyRIT, or a folder with its contents; empty: without its sets", default="")
    judges: list[str] = setting("judges to measure", factory=lambda: list(JUDGES))
    classifier: str = setting("folder of a finished fit; empty: without harm_classifier", default="")
    threshold: int = setting("lowest score of a harmful answer, for harm_classifier", default=3)
    lm: Judge = setting("the language model of the judges *_lm; kind=template: without them", factory=Judge)
    output: str = setting("file to write the measurements to; empty: none", default="")
    sample: int = setting("answers of each set, for a slow language model; 0: all", default=0)
    resamples: int = setting("bootstrap resamples for the intervals", default=2000)
    seed: int = setting("seed of the sample, of the bootstrap and of the document markers", default=0)

    def __post_init__(self) -> None:
        if not Path(self.data, "refusal_judge").is_dir():
            raise UserError(f"data={self.data} has no folder refusal_judge/.")
        if self.pyrit and not Path(self.pyrit).exists():
            raise UserError(f"pyrit={self.pyrit} does not exist; give the wheel or the unpacked folder.")
        for name in self.judges:
            find(name)
        if self.sample < 0:
            raise UserError(f"sample={self.sample} must be at least 1, or 0 for all answers.")
        if self.sample and Path(self.output).name == measured.FILE:
            raise UserError(
                f"output={self.output}: measurements of the package need all answers; use sample=0."
            )
        if self.resamples < 1:
            raise UserError(f"resamples={self.resamples} must be at least 1.")
