"""A small pipeline from `ingest` to `evaluate`.

It has no `fit`: probabilities depend in their last digits on the other texts of a batch, and with a new
classifier some texts are so close to two scores that they get another one.
"""

from __future__ import annotations

from benchmarks.chaos.driver import DEMO, SMALL
from jobs.pipeline import PipelineConfig, selected, stages_of
from safety_ray.core.config import load

WORDS = (
    DEMO, *SMALL, "until=evaluate", "finetune.chats=examples/chats.jsonl", "finetune.epochs=1",
    "finetune.batch_rows=8", "finetune.tagged_share=0.5", "evaluate.max_documents=40",
    "evaluate.max_prompts=6", "evaluate.max_new_tokens=8", "evaluate.resamples=200",
)  # fmt: skip
"""settings of the pipeline without its input and output"""


def names() -> list[str]:
    """Return the names of the stages, in their order."""
    config = load(PipelineConfig, [*WORDS, "input=in", "output=out"])
    return [stage.name for stage in selected(config, stages_of(config))]
