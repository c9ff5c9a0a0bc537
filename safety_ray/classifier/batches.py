"""Classify Arrow batches in scoring actors."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import torch

from safety_ray.classifier.classifier import Classifier, Prediction
from safety_ray.core import metrics
from safety_ray.core.dataset import REASON
from safety_ray.core.records import SCORED
from safety_ray.core.worker_deaths import Watch


class ScoreBatch:
    """Callable of an actor pool that loads the classifier once and adds score columns to batches.

    Two threads may call it, so that one splits texts into chunks while the GPU works for the other.
    """

    def __init__(
        self,
        classifier: str,
        batch_tokens: int,
        device: str,
        totals: Any = None,
        threads: int = 1,
        watch: Watch | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """`totals` is the handle of a `TokenTotals` actor; None counts no tokens.

        With `watch`, a row that ends the worker process is rejected.
        """
        torch.set_num_threads(threads)
        if device != "cpu":  # one tokenizer thread cannot keep a GPU busy
            os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
        self.classifier = Classifier.load(classifier, device, trust_remote_code=trust_remote_code)
        self.batch_tokens, self.totals, self.watch = batch_tokens, totals, watch
        self.counter = TokenCounter(self.classifier.encoder.model) if totals is not None else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.watch.call(self.score, batch, reject) if self.watch else self.score(batch)

    def score(self, batch: pa.Table) -> pa.Table:
        """Add the score columns."""
        batch = add_scores(batch, lambda texts: self.classifier.predict(texts, self.batch_tokens))
        if self.counter:
            tokens, positions = self.counter.take()
            self.totals.add.remote(tokens, positions)
            metrics.add("tokens", tokens, stage="score", part="score")
        return batch


class TokenCounter:
    """A counter of the tokens that a model reads, and of the positions that it computes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._masks: deque[torch.Tensor] = deque()  # summed later, so that a GPU does not wait
        model.register_forward_pre_hook(self._keep_mask, with_kwargs=True)

    def _keep_mask(self, model: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._masks.append(kwargs["attention_mask"])

    def take(self) -> tuple[int, int]:
        """Return (tokens, positions) since the last call."""
        masks = [self._masks.popleft() for _ in range(len(self._masks))]
        if not masks:
            return 0, 0
        return int(torch.stack([mask.sum() for mask in masks]).sum()), sum(mask.numel() for mask in masks)


def add_scores(batch: pa.Table, predict: Callable[[list[str]], list[Prediction]]) -> pa.Table:
    """Return `batch` with the classifier's columns, replacing columns of the same names.

    A null text has the score of an empty one.
    """
    return _with_columns(batch, predict([text or "" for text in batch.column("text").to_pylist()]))


def reject(batch: pa.Table, reason: str) -> pa.Table:
    """Return `batch` without scores, and rejected for `reason`."""
    scored = _with_columns(batch, [None] * len(batch))
    return scored.append_column(REASON, pa.array([reason] * len(batch), pa.string()))


def _with_columns(batch: pa.Table, predictions: Sequence[Prediction | None]) -> pa.Table:
    for column in SCORED:
        if column.name in ("id", "text"):
            continue
        if column.name in batch.column_names:
            batch = batch.drop_columns([column.name])
        values = [getattr(prediction, column.name, None) for prediction in predictions]
        batch = batch.append_column(column.name, pa.array(values, column.type))
    return batch
