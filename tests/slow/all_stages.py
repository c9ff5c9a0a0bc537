"""A small pipeline with all stages, except those that ask a language model or start an endpoint."""

from __future__ import annotations

from small_pipeline import FIT

from benchmarks.chaos.driver import DEMO, SMALL
from jobs.pipeline import PipelineConfig, selected, stages_of
from safety_ray.core.config import load

WORDS = (
    DEMO, *SMALL, "classifier=", "corpus.documents=560", *FIT, "until=evaluate",
    "finetune.chats=examples/chats.jsonl", "finetune.epochs=1", "finetune.batch_rows=8",
    "finetune.tagged_share=0.5", "evaluate.max_documents=40", "evaluate.max_prompts=6",
    "evaluate.max_new_tokens=8", "evaluate.resamples=200",
)  # fmt: skip
"""settings of the pipeline without its input and output"""


def names() -> list[str]:
    """Return the names of the stages, in their order."""
    config = load(PipelineConfig, [*WORDS, "input=in", "output=out"])
    return [stage.name for stage in selected(config, stages_of(config))]
