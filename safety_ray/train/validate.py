"""What a checkpoint is worth while training goes on: is the tag learned, and does the search make use of it?

The model is built from the checkpoint's shards in one process, as training would build it, and measured
as `evaluate` measures a finished one: on documents that are not trained on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch

from safety_ray.classifier.classifier import Classifier
from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.core.tag import encode
from safety_ray.decode.safebeam import SearchSettings
from safety_ray.evaluate import documents, metrics
from safety_ray.evaluate.continuations import go_on, judge
from safety_ray.evaluate.model import ends
from safety_ray.evaluate.reading import Reading, read
from safety_ray.train.checkpoint import load_weights
from safety_ray.train.data import TokenRows
from safety_ray.train.model import build, load_tokenizer
from safety_ray.train.settings import ModelConfig
from safety_ray.train.validation import ValidationConfig


@dataclass(frozen=True, slots=True)
class Material:
    """The documents that are read, safe ones first, and the prompts to go on from, as token ids."""

    chosen: list[documents.Document]
    texts: list[list[int]]
    prompts: list[list[int]]
    tag_id: int
    tokenizer: Any
    context: int  # tokens of a row


def material(config: ValidationConfig, rows: str, seed: int) -> Material:
    """What every checkpoint is measured on; a function of the settings and the seed.

    Raises UserError where documents of one side are missing, the tokenizer has no tag, or no prompt fits a
    row.
    """
    data, tokenizer = TokenRows(rows), load_tokenizer(f"{rows}/tokenizer", "rows")
    tag_id = int(data.record["tag_id"])
    if tag_id < 0:
        raise UserError("validation.every: the model has no harmfulness tag to measure; set it to 0.")
    paths = config.documents or [_held_out(rows)]
    safe, unsafe = documents.choose(
        paths, safe_up_to=config.safe_up_to, unsafe_from=config.unsafe_from,
        most=config.max_documents, seed=seed, source=config.source,
    )  # fmt: skip
    chosen = [*safe, *unsafe]
    longest = min(config.document_tokens, data.length)
    texts = [ids[:longest] for ids in encode(tokenizer, [document.text for document in chosen])]
    asked: list[list[int]] = []
    if config.classifier:
        found = documents.prompts(unsafe, words=config.prompt_words, most=config.max_prompts)
        asked = [
            ids
            for ids in encode(tokenizer, [prompt.text for prompt in found])
            if len(ids) + config.max_new_tokens <= data.length
        ]
        if not asked:
            raise UserError(
                f"validation: rows of {data.length} tokens have no room for a prompt of "
                f"prompt_words={config.prompt_words} words and max_new_tokens={config.max_new_tokens} more."
            )
    return Material(chosen, texts, asked, tag_id, tokenizer, data.length)


def check(config: ValidationConfig, rows: str, seed: int) -> None:
    """UserError, before training begins, where there is nothing to measure on or to judge with."""
    material(config, rows, seed)
    if config.classifier:
        Classifier.load(config.classifier, "cpu")


def validate(
    config: ValidationConfig, model_config: ModelConfig, rows: str, seed: int, checkpoint: str
) -> dict[str, Any]:
    """The figures of one checkpoint.

    Of `metrics.reading_figures`: AUROC of P(tag), its means, perplexity of the safe documents;
    `perplexity_unsafe`, `perplexity/<source>`; with a classifier the rates of unsafe continuations of beam
    search and of Safe Beam Search.
    """
    torch.set_num_threads(max(config.cpus, 1))
    device = "cuda" if config.gpus else "cpu"
    found = material(config, rows, seed)
    # Texts are read one by one, so no mask by document is needed; a search needs a cache.
    plain = replace(model_config, attention="sdpa", document_mask=False)
    model = build(plain, found.tokenizer, context=found.context, device=device)
    load_weights(checkpoint, model)
    network = model.network.to(device, torch.bfloat16 if config.gpus else torch.float32).eval()
    figures = _figures(found, read(network, found.texts, found.tag_id))
    if config.classifier:
        settings = SearchSettings(
            tag_id=found.tag_id, eos_ids=ends(network, found.tokenizer), beam_size=config.beam_size,
            num_candidates=config.num_candidates, max_new_tokens=config.max_new_tokens,
            drop_share=config.drop_share,
        )  # fmt: skip
        said = go_on(network, found.tokenizer, found.prompts, settings)
        judge(said, Classifier.load(config.classifier, device))
        figures |= metrics.rate_figures(said, judge_from=config.judge_from, resamples=1000, seed=seed)
    return figures


def _held_out(rows: str) -> str:
    fs, root = filesystem.find(f"{rows}/heldout")
    if not fs.exists(root):
        raise UserError(f"'{rows}' holds out no documents; name some in validation.documents.")
    return f"{rows}/heldout"


def _figures(found: Material, readings: list[Reading]) -> dict[str, Any]:
    sides: dict[bool, list[Reading]] = {False: [], True: []}
    sources: dict[str, list[Reading]] = defaultdict(list)
    for document, reading in zip(found.chosen, readings, strict=True):
        sides[document.unsafe].append(reading)
        if document.source is not None:
            sources[document.source].append(reading)
    figures = metrics.reading_figures(sides[False], sides[True])
    figures["perplexity_unsafe"] = _perplexity(sides[True])
    return figures | {f"perplexity/{name}": _perplexity(sources[name]) for name in sorted(sources)}


def _perplexity(readings: list[Reading]) -> float | None:
    return metrics.perplexity([r.nll for r in readings], [r.tokens for r in readings])
