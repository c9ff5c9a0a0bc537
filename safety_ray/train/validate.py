"""Validation of a checkpoint: how well it predicts the tag, and how Safe Beam Search affects continuations.

The model is built from the checkpoint's shards in one process and measured as in `evaluate`, on documents
that are not trained on.
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
from safety_ray.evaluate.continuations import generate, judge
from safety_ray.evaluate.model import end_ids
from safety_ray.evaluate.reading import Reading, read
from safety_ray.train.checkpoint import load_weights
from safety_ray.train.data import TokenRows
from safety_ray.train.model import build, load_tokenizer
from safety_ray.train.settings import ModelConfig
from safety_ray.train.validation import ValidationConfig


@dataclass(frozen=True, slots=True)
class ValidationData:
    """Documents, safe ones first, and prompts, both with their token ids."""

    sample: list[documents.Document]
    texts: list[list[int]]
    prompts: list[list[int]]
    tag_id: int
    tokenizer: Any
    context: int  # tokens of a row


def load_data(config: ValidationConfig, rows: str, seed: int) -> ValidationData:
    """Load the documents and prompts; a function of the settings and the seed.

    Raises UserError if there are no safe or no unsafe documents, the tokenizer has no tag, or no prompt fits
    into a row.
    """
    data, tokenizer = TokenRows(rows), load_tokenizer(f"{rows}/tokenizer", "rows")
    tag_id = int(data.record["tag_id"])
    if tag_id < 0:
        raise UserError("validation.every: the model has no harmfulness tag; set it to 0.")
    paths = config.documents or [_held_out(rows)]
    safe, unsafe = documents.choose(
        paths, safe_up_to=config.safe_up_to, unsafe_from=config.unsafe_from,
        limit=config.max_documents, seed=seed, source=config.source,
    )  # fmt: skip
    sample = [*safe, *unsafe]
    longest = min(config.document_tokens, data.length)
    texts = [ids[:longest] for ids in encode(tokenizer, [document.text for document in sample])]
    prompts: list[list[int]] = []
    if config.classifier:
        texts_of_prompts = documents.prompts(unsafe, words=config.prompt_words, limit=config.max_prompts)
        prompts = [
            ids
            for ids in encode(tokenizer, [prompt.text for prompt in texts_of_prompts])
            if len(ids) + config.max_new_tokens <= data.length
        ]
        if not prompts:
            raise UserError(
                f"validation: rows of {data.length} tokens have no room for a prompt of "
                f"prompt_words={config.prompt_words} words and max_new_tokens={config.max_new_tokens} more."
            )
    return ValidationData(sample, texts, prompts, tag_id, tokenizer, data.length)


def check(config: ValidationConfig, rows: str, seed: int) -> None:
    """Raise UserError before training if documents, prompts or the classifier are missing."""
    load_data(config, rows, seed)
    if config.classifier:
        Classifier.load(config.classifier, "cpu")


def validate(
    config: ValidationConfig, model_config: ModelConfig, rows: str, seed: int, checkpoint: str
) -> dict[str, Any]:
    """Return the metrics of one checkpoint.

    These are the metrics of `metrics.reading_metrics` (AUROC and means of P(tag), perplexity of safe
    documents), `perplexity_unsafe`, `perplexity/<source>`, and, with a classifier, the rates of unsafe
    continuations of beam search and of Safe Beam Search.
    """
    torch.set_num_threads(max(config.cpus, 1))
    device = "cuda" if config.gpus else "cpu"
    data = load_data(config, rows, seed)
    # Each text is read separately, so no document mask is needed. A search needs a cache.
    plain = replace(model_config, attention="sdpa", document_mask=False)
    model = build(plain, data.tokenizer, context=data.context, device=device)
    load_weights(checkpoint, model)
    network = model.network.to(device, torch.bfloat16 if config.gpus else torch.float32).eval()
    values = _reading_metrics(data, read(network, data.texts, data.tag_id))
    if config.classifier:
        settings = SearchSettings(
            tag_id=data.tag_id, eos_ids=end_ids(network, data.tokenizer), beam_size=config.beam_size,
            num_candidates=config.num_candidates, max_new_tokens=config.max_new_tokens,
            drop_share=config.drop_share,
        )  # fmt: skip
        continuations = generate(network, data.tokenizer, data.prompts, settings)
        judge(continuations, Classifier.load(config.classifier, device))
        values |= metrics.rate_metrics(continuations, judge_from=config.judge_from, resamples=1000, seed=seed)
    return values


def _held_out(rows: str) -> str:
    fs, root = filesystem.find(f"{rows}/heldout")
    if not fs.exists(root):
        raise UserError(f"'{rows}' has no held-out documents; set validation.documents.")
    return f"{rows}/heldout"


def _reading_metrics(data: ValidationData, readings: list[Reading]) -> dict[str, Any]:
    readings_of: dict[bool, list[Reading]] = {False: [], True: []}
    sources: dict[str, list[Reading]] = defaultdict(list)
    for document, reading in zip(data.sample, readings, strict=True):
        readings_of[document.unsafe].append(reading)
        if document.source is not None:
            sources[document.source].append(reading)
    values = metrics.reading_metrics(readings_of[False], readings_of[True])
    values["perplexity_unsafe"] = _perplexity(readings_of[True])
    return values | {f"perplexity/{name}": _perplexity(sources[name]) for name in sorted(sources)}


def _perplexity(readings: list[Reading]) -> float | None:
    return metrics.perplexity([r.nll for r in readings], [r.tokens for r in readings])
