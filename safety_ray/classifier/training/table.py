"""Texts cut into chunks and embedded once, and what a classifier makes of them."""

from __future__ import annotations

import torch

from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.encoder import Encoder
from safety_ray.classifier.sequence import SequenceClassifier
from safety_ray.classifier.training.head import worst_chunks
from safety_ray.classifier.training.rows import Row
from safety_ray.core.progress import Line

_AT_ONCE = 256
"""texts between two lines of progress"""


class Table:
    """Rows with their chunks, and each chunk's embedding where `encoder` is an `Encoder`."""

    def __init__(self, encoder: Encoder | SequenceClassifier, rows: list[Row]) -> None:
        self.encoder, self.rows = encoder, rows
        self.low = torch.tensor([row["label"] for row in rows])
        self.high = torch.tensor([row["label_max"] for row in rows])
        self.chunks = encoder.chunk_ids([row["text"] for row in rows])
        self.owner = torch.tensor([i for i, chunks in enumerate(self.chunks) for _ in chunks])
        self.embedded = self._embed(encoder) if isinstance(encoder, Encoder) else torch.empty(0)

    def _embed(self, encoder: Encoder) -> torch.Tensor:
        line, parts = Line("embed", len(self.rows), "texts"), []
        for at in range(0, len(self.rows), _AT_ONCE):
            some = self.chunks[at : at + _AT_ONCE]
            parts.append(encoder.embed([chunk for chunks in some for chunk in chunks]))
            line.show(at + len(some), final=at + len(some) == len(self.rows))
        return torch.cat(parts)

    def of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which chunks are those of the rows where `rows` (a mask) is set, and whose each of them is."""
        chosen = rows[self.owner]
        return chosen, self.owner[chosen]

    def logits(self, classifier: Classifier, rows: torch.Tensor) -> torch.Tensor:
        """(rows, 6) logits of the chunk that decides each row's score, before the temperature."""
        chosen, owner = self.of(rows)
        if classifier.encoder is self.encoder and classifier.head is not None:
            logits = classifier.head(self.embedded[chosen])
        else:
            places = rows.nonzero().flatten().tolist()
            logits = classifier.logits([chunk for i in places for chunk in self.chunks[i]])
        return logits[deciding_chunks(logits, owner)]


def deciding_chunks(logits: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """`classifier.deciding` for many texts: for each value of `owner`, in order, the chunk that decides."""
    surest, score = logits.softmax(-1).max(-1)
    return worst_chunks(score + surest, owner)  # a probability never reaches the next score
