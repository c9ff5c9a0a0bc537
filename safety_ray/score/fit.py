"""labelled texts → classifier: a linear head on a frozen encoder, weighted towards recall."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from safety_ray import artifact, dataset
from safety_ray.config import setting
from safety_ray.errors import UserError
from safety_ray.records import LABELLED, SCORES, require, stable_hash
from safety_ray.score.classifier import Classifier
from safety_ray.score.encoder import PACKAGED, Encoder
from safety_ray.score.metrics import measure

_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Fits the harm classifier's head on labelled texts and measures it on held-out ones."""

    labelled: str = setting("dataset with id, text and label 0-5; `split` and `family` if it has them")
    output: str = setting("folder to write")
    encoder: str = setting("the packaged encoder, or a folder or hub id", default=PACKAGED)
    max_tokens: int = setting("the encoder's length; longer texts are split in chunks", default=256)
    per_family: int = setting("documents of one family (a seed's variants) to fit on; 0: all", default=2)
    windows: int = setting(
        "pieces of one to three sentences cut from each text, so that short texts are scored well too",
        default=1,
    )
    unsafe_weight: float = setting("weight of the loss on labels above 0 (the paper's lambda)", default=1.0)
    l2: float = setting("ridge penalty on the head", default=3e-5)
    heldout_share: float = setting("share held out by id where the dataset has no split", default=0.2)
    seed: int = setting("seed of the split and the windows", default=0)

    def __post_init__(self) -> None:
        if not 0 < self.heldout_share < 1:
            raise UserError(f"heldout_share={self.heldout_share} must lie between 0 and 1.")
        if self.unsafe_weight <= 0 or self.l2 < 0 or self.windows < 0 or self.per_family < 0:
            raise UserError("unsafe_weight must be positive; l2, windows and per_family not negative.")


def run(config: FitConfig) -> dict[str, Any]:
    out = artifact.begin(config.output, config, inputs={"labelled": config.labelled})
    if out.record is not None:
        return out.record
    rows = dataset.table(config.labelled)
    require(LABELLED, rows.column_names, f"'{config.labelled}'")
    train, heldout = split(rows.to_pylist(), config)
    encoder = Encoder(config.encoder, config.max_tokens)
    texts, labels = training_texts(train, config)
    embedded, owner = embed(encoder, texts)
    weight, bias = fit_head(
        embedded, torch.tensor(labels)[owner], unsafe_weight=config.unsafe_weight, l2=config.l2
    )
    classifier = Classifier(encoder, weight, bias)
    classifier.save(out.sub("classifier"))
    predicted = classifier.predict([row["text"] for row in heldout])
    metrics = measure(
        [row["label"] for row in heldout],
        [p.score for p in predicted],
        np.array([p.probs for p in predicted]),
    )
    report = pa.table(
        {
            "id": [row["id"] for row in heldout],
            "label": [row["label"] for row in heldout],
            "score": [p.score for p in predicted],
            "probs": [p.probs for p in predicted],
        }
    )
    dataset.write_table(report, out.sub("data", "heldout.parquet"))
    with open(out.sub("metrics.json"), "w") as file:
        json.dump(metrics, file, indent=1)
    return out.commit(
        rows_in=len(rows), rows_out=len(train) + len(heldout), balanced=False, metrics=metrics,
        fitted_on=len(train), measured_on=len(heldout),
    )  # fmt: skip


def split(rows: list[dict[str, Any]], config: FitConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out rows: at most `per_family` of a family, in the dataset's own split if any.

    Raises UserError for a label outside 0-5, or a side without rows.
    """
    train: list[dict[str, Any]] = []
    heldout: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for row in rows:
        label = row["label"]
        if label is None or not 0 <= label < SCORES:
            raise UserError(f"row '{row['id']}' has label {label}; a label is an integer from 0 to 5.")
        family = row.get("family") or row["id"]
        seen[family] = seen.get(family, 0) + 1
        if config.per_family and seen[family] > config.per_family:
            continue
        chance = stable_hash(config.seed, "fit", family) / 2**64
        held = row.get("split") == "heldout" if row.get("split") else chance < config.heldout_share
        (heldout if held else train).append(row)
    if not train or not heldout:
        raise UserError(
            f"'{config.labelled}' leaves {len(train)} texts to fit on and {len(heldout)} to measure on; "
            "both sides need some: give more labelled texts or another heldout_share."
        )
    return train, heldout


def training_texts(rows: list[dict[str, Any]], config: FitConfig) -> tuple[list[str], list[int]]:
    """The texts and, beside them, windows of one to three sentences with the label of their text."""
    texts, labels = [], []
    for row in rows:
        sentences = _SENTENCE.split(row["text"])
        pieces = [row["text"]]
        for n in range(config.windows if len(sentences) > 3 else 0):
            size = 1 + stable_hash(config.seed, row["id"], n, "size") % 3
            at = stable_hash(config.seed, row["id"], n, "at") % (len(sentences) - size + 1)
            pieces.append(" ".join(sentences[at : at + size]))
        texts += pieces
        labels += [row["label"]] * len(pieces)
    return texts, labels


def embed(encoder: Encoder, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(chunks, width) embeddings and (chunks,) the index of the text that each chunk is from."""
    chunked = encoder.chunk_ids(texts)
    owner = [i for i, chunks in enumerate(chunked) for _ in chunks]
    return encoder.embed([c for chunks in chunked for c in chunks]), torch.tensor(owner)


def fit_head(
    x: torch.Tensor, labels: torch.Tensor, *, unsafe_weight: float, l2: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted six-way logistic regression: (6, width) weight and (6,) bias.

    The paper trains the head with AdamW for an epoch; on a frozen encoder the problem is convex,
    and L-BFGS finds its optimum in a second, the same at every run.
    """
    weight = torch.zeros(SCORES, x.shape[1], requires_grad=True)
    bias = torch.zeros(SCORES, requires_grad=True)
    per_row = torch.where(labels > 0, unsafe_weight, 1.0)
    per_row = per_row / per_row.sum()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels, reduction="none")
        loss = (per_row * losses).sum() + l2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()
