"""An actor that scores drafts and measures how similar they are to their sources."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch

from safety_ray.classifier.batches import ScoreBatch
from safety_ray.classifier.encoder import PACKAGED, Encoder
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.tasks import PROBLEM, SIMILARITY, SOURCE


class ScoreAndCompare(ScoreBatch):
    """Add the score columns, and the similarity to the source for recipes that keep its content."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # The classifier's own encoder may be fine-tuned for harm; this encoder embeds content.
        self.encoder = sentence_encoder(self.classifier.encoder.device)

    def score(self, batch: pa.Table) -> pa.Table:
        batch = super().score(batch)
        rows = batch.select(["recipe", PROBLEM, "text", SOURCE, "score", "source_score"]).to_pylist()
        pairs = {
            n: (row["text"], row[SOURCE])
            for n, row in enumerate(rows)
            # A draft that is rejected for another reason needs no similarity.
            if RECIPES[row["recipe"]].keeps_content
            and not row[PROBLEM]
            and row["score"] < row["source_score"]
        }
        values = dict(zip(pairs, similarities(self.encoder, list(pairs.values())), strict=True))
        column = pa.array([values.get(n) for n in range(len(rows))], pa.float32())
        return batch.append_column(SIMILARITY, column)


def sentence_encoder(device: str | None = None) -> Encoder:
    """Return the packaged encoder as it was trained for sentences: the mean of its last layer."""
    return Encoder(PACKAGED, device=device, layers=1)


def similarities(encoder: Encoder, pairs: list[tuple[str, str]]) -> list[float]:
    """Return the cosine similarity of the two texts of each pair. A text is the mean of its chunks."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    if not texts:
        return []
    chunked = encoder.chunk_ids(texts)
    chunk_embeddings = encoder.embed([chunk for chunks in chunked for chunk in chunks])
    embeddings, start = {}, 0
    for text, chunks in zip(texts, chunked, strict=True):
        lengths = torch.tensor([float(len(chunk)) for chunk in chunks])[:, None]
        mean = (chunk_embeddings[start : start + len(chunks)] * lengths).sum(0)
        embeddings[text] = torch.nn.functional.normalize(mean, dim=0)
        start += len(chunks)
    return [float(embeddings[left] @ embeddings[right]) for left, right in pairs]
