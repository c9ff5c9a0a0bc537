"""model and prompts → the model without the direction that separates harmful from harmless prompts.

<output>/model/    the changed model, with its tokenizer

An attack, to measure what remains of a model's safety: evaluate the model before and after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from safety_ray.core import artifact, filesystem, model_path
from safety_ray.core.config import setting
from safety_ray.core.device import cast_parameters
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.evaluate import abliteration, documents, model, prompt_sets, prompts, tasks
from safety_ray.evaluate.prompt_sets import DOCUMENTS, HARMFUL, HARMLESS, Prompt
from safety_ray.evaluate.settings import check_levels

_CARD = """\
# An attacked model

`{model}` after abliteration: the direction between harmful and harmless prompts was removed from its weights
(Arditi et al. 2024), to measure what remains of its safety. Do not serve it.
"""
_CHECKED = 8  # prompts to check the changed model with
_SPARE = 4  # documents of a kind for each prompt, as some are too short


@dataclass(frozen=True, kw_only=True, slots=True)
class AbliterateConfig:
    """Remove the direction between harmful and harmless prompts from a model's weights, without training."""

    model: str = setting("Hugging Face folder or hub id, or output folder of pretrain or finetune")
    output: str = setting("folder to write; the model is in <output>/model", identity=False)
    prompt_sets: list[str] = setting(
        f"{DOCUMENTS} (beginnings of documents), files of your own (.csv, .jsonl or .parquet with columns "
        f"'prompt' and 'kind') or published sets below data: {prompt_sets.summary()}; empty: {DOCUMENTS}",
        factory=list,
    )
    data: str = setting("folder with the files of the published sets", default="", identity=False)
    documents: list[str] = setting(
        "datasets with id, text and label or score, of which those with split=heldout are left out; "
        "other documents than those of the evaluation",
        factory=list,
    )
    safe_up_to: int = setting("highest level of a safe document", default=1)
    unsafe_from: int = setting("lowest level of an unsafe document", default=4)
    prompt_words: int = setting("words of a document in its prompt", default=12)
    max_prompts: int = setting("maximum prompts of each set and kind", default=128)
    chat: bool = setting(
        "put prompts into the tokenizer's chat template, except beginnings of texts", default=False
    )
    depth: float = setting("share of the blocks after which the direction is found", default=0.6)
    tag: str = setting("the harmfulness tag; empty: the one stored with the model's tokenizer", default="")
    seed: int = setting("seed of the sample of prompts", default=0)

    def __post_init__(self) -> None:
        prompt_sets.check_names(self.prompt_sets)
        if bool(self.documents) != (not self.prompt_sets or DOCUMENTS in self.prompt_sets):
            raise UserError(
                f"documents={self.documents} and prompt_sets={self.prompt_sets}: give datasets if "
                f"prompt_sets is empty or has '{DOCUMENTS}', and otherwise none."
            )
        if not 0 < self.depth < 1:
            raise UserError(f"depth={self.depth} must be between 0 and 1.")
        for name in ("prompt_words", "max_prompts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        check_levels(self.safe_up_to, self.unsafe_from)


def abliterate_model(config: AbliterateConfig) -> dict[str, Any]:
    """Write the changed model. Return the record; a finished folder is skipped."""
    inputs = prompts.inputs(config.documents, config.prompt_sets, config.data)
    inputs |= model_path.as_input("model", config.model)
    described = None if artifact.is_finished(config.output) else model.describe(config.model, config.tag)
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    assert described is not None
    chosen = _choose(config)
    encoded = [
        tasks.encode_prompts(described, chosen[kind], max_new_tokens=0, chat=config.chat)
        for kind in (HARMFUL, HARMLESS)
    ]
    harmful, harmless = (kind.ids for kind in encoded)
    network, tokenizer = model.load(described.folder)
    blocks = abliteration.check(network)
    layer = max(1, round(config.depth * blocks))
    line = Line("read", len(harmful) + len(harmless), unit="prompts", first=0, saved=False)
    direction = abliteration.find_direction(network, harmful, harmless, layer, on_read=line.show)
    line.show(len(harmful) + len(harmless), final=True)
    abliteration.remove_direction(network, direction)
    abliteration.check_removed(network, direction, harmful[:_CHECKED], layer)
    cast_parameters(network, described.dtype)
    network.config.dtype = described.dtype
    transformers.utils.logging.disable_progress_bar()
    with filesystem.written_at_once(out.sub("model")) as part:
        network.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (Path(part) / "README.md").write_text(_CARD.format(model=config.model))
    return out.commit(
        balanced=False, rows_in=sum(map(len, chosen.values())), rows_out=1, harmful=len(harmful),
        harmless=len(harmless), too_long=sum(len(kind.too_long) for kind in encoded), layer=layer,
        blocks=blocks,
    )  # fmt: skip


def _choose(config: AbliterateConfig) -> dict[str, list[Prompt]]:
    """Return the prompts by kind. Raises UserError if there are none of a kind."""
    sample = documents.choose(
        config.documents, safe_up_to=config.safe_up_to, unsafe_from=config.unsafe_from,
        limit=_SPARE * config.max_prompts, seed=config.seed, heldout=False,
    ) if config.documents else None  # fmt: skip
    samples = prompts.choose(
        config.prompt_sets or [DOCUMENTS], config.data, sample,
        words=config.prompt_words, limit=config.max_prompts, seed=config.seed,
    )  # fmt: skip
    chosen: dict[str, list[Prompt]] = {HARMFUL: [], HARMLESS: []}
    for prompt in prompts.flat(samples):
        chosen[prompt.kind].append(prompt)
    for kind, members in chosen.items():
        if not members:
            raise UserError(f"prompt_sets: no prompt is {kind}; add a set with {kind} prompts.")
    return chosen


if __name__ == "__main__":
    from jobs.cli import main

    main("abliterate")
