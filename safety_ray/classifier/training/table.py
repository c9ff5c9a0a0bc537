"""Texts with their chunks and embeddings, and the logits of a classifier on them."""

from __future__ import annotations

import torch

from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.encoder import Encoder
from safety_ray.classifier.sequence import SequenceClassifier
from safety_ray.classifier.training.head import worst_chunks
from safety_ray.classifier.training.rows import Row
from safety_ray.core.progress import Line

_STEP = 256
"""texts between two updates of the progress line"""


class Table:
    """Rows with their chunks, and the embedding of each chunk if `encoder` is an `Encoder`."""

    def __init__(self, encoder: Encoder | SequenceClassifier, rows: list[Row]) -> None:
        self.encoder, self.rows = encoder, rows
        self.low = torch.tensor([row["label"] for row in rows])
        self.high = torch.tensor([row["label_max"] for row in rows])
        self.chunks = encoder.chunk_ids([row["text"] for row in rows])
        self.owner = torch.tensor([i for i, chunks in enumerate(self.chunks) for _ in chunks])
        self.embedded = self._embed(encoder) if isinstance(encoder, Encoder) else torch.empty(0)

    def _embed(self, encoder: Encoder) -> torch.Tensor:
        line, vectors = Line("embed", len(self.rows), "texts", first=0, saved=False), []
        for start in range(0, len(self.rows), _STEP):
            texts = self.chunks[start : start + _STEP]
            vectors.append(encoder.embed([chunk for chunks in texts for chunk in chunks]))
            done = start + len(texts)
            line.show(done, final=done == len(self.rows))
        return torch.cat(vectors)

    def chunks_of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mask of the chunks of the rows in the mask `rows`, and the row index of each chunk."""
        mask = rows[self.owner]
        return mask, self.owner[mask]

    def logits(self, classifier: Classifier, rows: torch.Tensor) -> torch.Tensor:
        """Return (rows, 6) logits of the chunk that decides each row's score, before the temperature."""
        mask, owner = self.chunks_of(rows)
        if classifier.encoder is self.encoder and classifier.head is not None:
            logits = classifier.head(self.embedded[mask])
        else:
            indices = rows.nonzero().flatten().tolist()
            logits = classifier.logits([chunk for i in indices for chunk in self.chunks[i]])
        return logits[deciding_chunks(logits, owner)]


def deciding_chunks(logits: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Return `classifier.deciding_chunk` for each value of `owner`, in order, from (chunks, 6) `logits`."""
    probability, score = logits.softmax(-1).max(-1)
    return worst_chunks(score + probability, owner)  # the probability orders equal scores
