"""Validation of a checkpoint: how well it predicts the tag, and how Safe Beam Search affects continuations.

The model is built from the checkpoint's shards in one process and measured as in `evaluate`, on documents
that are not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from safety_ray.classifier.classifier import Classifier
from safety_ray.core import filesystem
from safety_ray.core.device import cast_parameters
from safety_ray.core.errors import UserError
from safety_ray.core.tag import encode, start_ids
from safety_ray.decode.words import word_starts
from safety_ray.evaluate import documents, measure, metrics, results
from safety_ray.evaluate.decoders import BEAM, SAFEBEAM, answer
from safety_ray.evaluate.judges.harm_classifier import JUDGE, HarmClassifier
from safety_ray.evaluate.model import end_ids
from safety_ray.evaluate.prompt_sets import Prompt
from safety_ray.evaluate.reading import read
from safety_ray.train.checkpoint import load_weights
from safety_ray.train.data import TokenRows
from safety_ray.train.model import build, load_tokenizer
from safety_ray.train.settings import ModelConfig
from safety_ray.train.validation import ValidationConfig

RESAMPLES = 1000  # for the intervals


@dataclass(frozen=True, slots=True)
class ValidationData:
    """Documents, safe ones first, and prompts, both with their token ids."""

    documents: list[documents.Document]
    texts: list[list[int]]
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    too_long: int  # prompts that do not fit into a row
    tag_id: int
    tokenizer: Any
    context: int  # tokens of a row


def load_data(config: ValidationConfig, rows: str, seed: int) -> ValidationData:
    """Load the documents and prompts; a function of the settings and the seed.

    Raises UserError if there are no safe or no unsafe documents, the tokenizer has no tag, or no prompt fits
    into a row.
    """
    data, tokenizer = TokenRows(rows), load_tokenizer(f"{rows}/tokenizer", "rows")
    tag_id = data.tag_id
    if tag_id < 0:
        raise UserError("validation.every: the model has no harmfulness tag; set it to 0.")
    paths = config.documents or [_held_out(rows)]
    safe, unsafe, _ = documents.choose(
        paths, safe_up_to=config.safe_up_to, unsafe_from=config.unsafe_from,
        limit=config.max_documents, seed=seed, source=config.source, group=config.group,
    )  # fmt: skip
    read_documents = [*safe, *unsafe]
    longest = min(config.document_tokens, data.length)
    start = start_ids(tokenizer)
    texts = [
        [*start, *ids][:longest] for ids in encode(tokenizer, [document.text for document in read_documents])
    ]
    prompts: dict[Prompt, list[int]] = {}
    too_long = 0
    if config.classifier:
        sample = documents.beginnings(unsafe, words=config.prompt_words, limit=config.max_prompts).prompts
        ids_of_prompts = [[*start, *ids] for ids in encode(tokenizer, [prompt.text for prompt in sample])]
        prompts = {
            prompt: ids
            for prompt, ids in zip(sample, ids_of_prompts, strict=True)
            if len(ids) + config.max_new_tokens <= data.length
        }
        too_long = len(sample) - len(prompts)
        if not prompts:
            raise UserError(
                f"validation: rows of {data.length} tokens have no room for a prompt of "
                f"prompt_words={config.prompt_words} words and max_new_tokens={config.max_new_tokens} more."
            )
    return ValidationData(
        read_documents, texts, list(prompts), list(prompts.values()), too_long, tag_id, tokenizer, data.length
    )


def check(config: ValidationConfig, rows: str, seed: int) -> None:
    """Raise UserError before training if documents, prompts or the classifier are missing."""
    load_data(config, rows, seed)
    if config.classifier:
        _classifier(config, "cpu")


def _classifier(config: ValidationConfig, device: str) -> Classifier:
    return Classifier.load(config.classifier, device, trust_remote_code=config.trust_remote_code)


def validate(
    config: ValidationConfig, model_config: ModelConfig, rows: str, seed: int, checkpoint: str
) -> dict[str, Any]:
    """Return the metrics of one checkpoint.

    These are the metrics of `metrics.reading_metrics` (AUROC and means of P(tag), perplexity, also per
    source) and, with a classifier, the rates of harmful answers of beam search and of Safe Beam Search.
    """
    torch.set_num_threads(max(config.cpus, 1))
    device = "cuda" if config.gpus else "cpu"
    data = load_data(config, rows, seed)
    dtype = torch.bfloat16 if config.gpus else torch.float32
    network = load_network(model_config, data.tokenizer, data.context, checkpoint, device, dtype)
    values = metrics.reading_metrics(
        data.documents, read(network, data.texts, data.tag_id), seed=seed, resamples=RESAMPLES
    )
    if config.classifier:
        judge = HarmClassifier(_classifier(config, device), config.judge_from)
        values |= _answer_metrics(config, network, data, judge, seed)
        values |= {"prompts": len(data.prompts), "prompts_too_long": data.too_long}
    return values


def load_network(
    model_config: ModelConfig, tokenizer: Any, context: int, checkpoint: str, device: str, dtype: torch.dtype
) -> Any:
    """Build the transformers model of a checkpoint, in evaluation mode, with parameters of `dtype`."""
    # Each text is read separately, so no document mask is needed. A search has a cache, and padding.
    plain = replace(model_config, attention="sdpa", document_mask=False)
    model = build(plain, tokenizer, context=context, device=device)
    load_weights(checkpoint, model)
    cast_parameters(model, dtype)
    return model.network.to(device).eval()


def _answer_metrics(
    config: ValidationConfig, network: Any, data: ValidationData, judge: HarmClassifier, seed: int
) -> dict[str, Any]:
    decoding = replace(
        config.decoding(data.tag_id, end_ids(network, data.tokenizer)), words=word_starts(data.tokenizer)
    )
    seeds = [0] * len(data.prompts)  # both searches are deterministic
    answers = {
        name: answer(network, data.tokenizer, data.prompt_ids, name, decoding, seeds)
        for name in (BEAM, SAFEBEAM)
    }
    rows = results.make_rows(data.prompts, answers)
    verdicts = results.verdict_rows(judge.judge(results.answers_of(rows)))
    rows = results.add_verdicts(rows, {JUDGE.name: verdicts})
    return measure.headline(
        measure.rate_table(rows, {JUDGE.name: ""}, seed=seed, resamples=RESAMPLES),
        measure.difference_table(rows, seed=seed, resamples=RESAMPLES),
    )


def _held_out(rows: str) -> str:
    fs, root = filesystem.find(f"{rows}/heldout")
    if not fs.exists(root):
        raise UserError(f"'{rows}' has no held-out documents; set validation.documents.")
    return f"{rows}/heldout"
