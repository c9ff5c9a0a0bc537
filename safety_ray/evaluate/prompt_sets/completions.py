"""Published sets of beginnings of harmful texts, for base models, which complete text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safety_ray.core.published import DataFile
from safety_ray.evaluate.prompt_sets.prompt_set import Columns, PromptSet, read_table
from safety_ray.evaluate.prompt_sets.published import ADVBENCH, UNSEEN

_CONSENT = "Sure, "


def _targets(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the beginnings of the answers to AdvBench's requests, without the word of consent."""
    for row in read_table(path):
        begun = str(row.get("target") or "").removeprefix(_CONSENT)
        yield {"prompt": f"{begun[:1].upper()}{begun[1:]}:" if begun else ""}


ADVBENCH_COMPLETIONS = PromptSet(
    name="advbench_completions",
    contents='beginnings of the 520 texts that AdvBench requests ("Here is ...:"), as plain text',
    files=ADVBENCH.files,
    read=_targets,
    is_text=True,
    url=ADVBENCH.url,
    licence=ADVBENCH.licence,
    how_to_get="The file of `advbench`.",
)

JB_COMPLETIONS = PromptSet(
    name="jb_completions",
    contents="the paper's 990 requests of several sets, turned into texts to complete, as plain text",
    files=(DataFile("safety_eval/jb_completions.jsonl", None, UNSEEN),),
    read=read_table,
    columns=Columns(prompt="completion_behavior"),
    is_text=True,
    url="https://huggingface.co/datasets/locuslab/jb-completions",
    licence="see the dataset's page",
    how_to_get="Write the rows of that dataset as JSON lines.",
)
