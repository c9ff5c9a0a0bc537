"""The pool of classifiers on Ray: actors that score batches, and count the tokens that they compute."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

from safety_ray.score import ensemble
from safety_ray.score.classifier import Classifier
from safety_ray.score.pool import Pool


class ScoreBatch:
    """One actor of the pool: holds the classifier, adds score columns to batches."""

    def __init__(self, classifier: str, batch_tokens: int, device: str, tally: Any = None) -> None:
        threads = 1 if device == "cpu" else 4
        torch.set_num_threads(threads)
        if device != "cpu":  # a GPU must not wait for one core's tokenizer
            os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
        self.classifier = Classifier.load(classifier, device)
        self.batch_tokens, self.tally = batch_tokens, tally
        self.tokens = Tokens(self.classifier.encoder.model) if tally is not None else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = ensemble.classify(batch, lambda texts: self.classifier.predict(texts, self.batch_tokens))
        if self.tokens:
            self.tally.add(*self.tokens.take())
        return batch


class Tokens:
    """Counts the tokens that go through a model, and the places that are computed for them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._masks: list[torch.Tensor] = []  # counted later: a GPU need not wait for it
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._masks.append(kwargs["attention_mask"])

    def take(self) -> tuple[int, int]:
        """(tokens, places) since the last call."""
        masks, self._masks = self._masks, []
        return sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)


def score(
    ds: ray.data.Dataset,
    config: Pool,
    classifier: str,
    rows: int,
    *,
    tally: Any = None,
    actor: type[ScoreBatch] | None = None,
) -> ray.data.Dataset:
    """`ds` with the score columns that `classifier` gives, by a pool of actors; `actor` may add others."""
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0.0)
    on_gpus = config.on_gpus(gpus)
    least, most = config.size(resources.get("CPU", 1), gpus, rows)
    # A file may be one block: cut it, so that all actors have work and little is lost with one.
    ds = ds.repartition(target_num_rows_per_block=config.batch_rows, strict=True)
    return ds.map_batches(
        actor or ScoreBatch,
        fn_constructor_args=(classifier, config.batch_tokens, "cuda" if on_gpus else "cpu", tally),
        batch_format="pyarrow",
        batch_size=config.batch_rows,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        **({"num_gpus": config.gpus_per_actor} if on_gpus else {"num_cpus": 1}),
    )  # fmt: skip
