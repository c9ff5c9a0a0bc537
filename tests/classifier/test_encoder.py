"""The encoder against sentence-transformers, and its chunks and batches."""

from __future__ import annotations

import numpy as np
import torch

from safety_ray.classifier.encoder import Encoder, packaged_folder
from safety_ray.classifier.transformer import batches_by_length

TEXTS = ["A quiet soup recipe.", "I will hurt you all.", "", "Zażółć gęślą jaźń 🙂", "short"]


def test_encoder_embeddings_match_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    ours = Encoder(device="cpu")
    vectors = ours.embed([chunks[0] for chunks in ours.chunk_ids(TEXTS)])
    theirs = SentenceTransformer(str(packaged_folder()), device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert vectors.shape == (len(TEXTS), 7 * 384)  # the embedding layer and six blocks
    assert (vectors[:, -384:] * theirs).sum(-1).min() > 0.999
    assert torch.allclose(vectors.view(-1, 7, 384).norm(dim=-1), torch.ones(len(TEXTS), 7), atol=1e-4)


def test_encoder_chunks_contain_every_token_once() -> None:
    encoder = Encoder(device="cpu", max_tokens=16)
    text = " ".join(f"word{i}" for i in range(60))
    [chunks] = encoder.chunk_ids([text])
    body = [i for chunk in chunks for i in chunk[1:-1]]
    assert body == encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert max(map(len, chunks)) <= 16


def test_batches_by_length_cover_texts_within_token_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500).tolist()
    batches = batches_by_length(lengths, 1024)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 1024 for b in batches)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert sum(lengths) / padded > 0.95
