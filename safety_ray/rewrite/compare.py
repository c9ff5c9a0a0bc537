"""The actor that holds a draft against its source: its score, and how much of the content it keeps."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch

from safety_ray.classifier.batches import ScoreBatch
from safety_ray.classifier.encoder import PACKAGED, Encoder
from safety_ray.rewrite.tasks import PROBLEM, SIMILARITY, SOURCE


class ScoreAndCompare(ScoreBatch):
    """Adds the score columns, and for rephrased texts the similarity to the source."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Not the classifier's own encoder, which may know harm alone: this one embeds content.
        self.encoder = sentence_encoder(self.classifier.encoder.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        batch = super().__call__(batch)
        rows = batch.select(["recipe", PROBLEM, "text", SOURCE, "score", "source_score"]).to_pylist()
        pairs = {
            n: (row["text"], row[SOURCE])
            for n, row in enumerate(rows)
            # What is rejected for another reason need not be compared.
            if row["recipe"] == "rephrase" and not row[PROBLEM] and row["score"] < row["source_score"]
        }
        found = dict(zip(pairs, similarities(self.encoder, list(pairs.values())), strict=True))
        values = pa.array([found.get(n) for n in range(len(rows))], pa.float32())
        return batch.append_column(SIMILARITY, values)


def sentence_encoder(device: str | None = None) -> Encoder:
    """The packaged encoder as it was trained for sentences: the mean of its last layer."""
    return Encoder(PACKAGED, device=device, layers=1)


def similarities(encoder: Encoder, pairs: list[tuple[str, str]]) -> list[float]:
    """Cosine similarity of the two texts of each pair, each the mean of its chunks' embeddings."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    if not texts:
        return []
    chunked = encoder.chunk_ids(texts)
    flat = encoder.embed([chunk for chunks in chunked for chunk in chunks])
    of_text, at = {}, 0
    for text, chunks in zip(texts, chunked, strict=True):
        length = torch.tensor([float(len(chunk)) for chunk in chunks])[:, None]
        mean = (flat[at : at + len(chunks)] * length).sum(0)
        of_text[text] = torch.nn.functional.normalize(mean, dim=0)
        at += len(chunks)
    return [float(of_text[one] @ of_text[other]) for one, other in pairs]
