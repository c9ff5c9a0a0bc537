"""The encoder against sentence-transformers, and its chunks and batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from safety_ray.classifier.batches import TokenCounter
from safety_ray.classifier.classifier import Classifier, Head
from safety_ray.classifier.encoder import Encoder, packaged_folder
from safety_ray.core.batching import batches_by_length

TEXTS = ["A quiet soup recipe.", "I will hurt you all.", "", "Zażółć gęślą jaźń 🙂", "short"]


def test_encoder_embeddings_match_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    ours = Encoder(device="cpu")
    vectors = ours.embed([chunks[0] for chunks in ours.chunk_ids(TEXTS)])
    theirs = SentenceTransformer(str(packaged_folder()), device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert vectors.shape == (len(TEXTS), 7 * 384)  # the embedding layer and six blocks
    assert (vectors[:, -384:] * theirs).sum(-1).min() > 0.999
    assert torch.allclose(vectors.view(-1, 7, 384).norm(dim=-1), torch.ones(len(TEXTS), 7), atol=1e-4)


def test_encoder_splits_texts_at_ends_of_tokens() -> None:
    encoder = Encoder(max_tokens=16)
    texts = [
        "",
        "one",
        f"Cafe\u0301 \u6771\u4eac, \U0001f600 [SEP] {' '.join(TEXTS)}  ",
        "unbelievabilities " * 9,
    ]
    chunked, ends = encoder.split(texts)
    assert chunked == encoder.chunk_ids(texts)
    assert ends[:2] == [[0], [3]]
    for text, chunks, ends_of_text in zip(texts, chunked, ends, strict=True):
        assert len(chunks) == len(ends_of_text)
        assert ends_of_text == sorted(ends_of_text)
        assert ends_of_text[-1] == len(text)
        offsets = iter(
            encoder.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        )
        for n, (chunk, end) in enumerate(zip(chunks, ends_of_text, strict=True)):
            tokens = [next(offsets) for _ in chunk[1:-1]]
            if n < len(chunks) - 1:
                assert end == max(stop for _, stop in tokens)
    assert min(len(ends[2]), len(ends[3])) > 2


def test_encoder_chunks_contain_every_token_once() -> None:
    encoder = Encoder(device="cpu", max_tokens=16)
    text = " ".join(f"word{i}" for i in range(60))
    [chunks] = encoder.chunk_ids([text])
    body = [i for chunk in chunks for i in chunk[1:-1]]
    assert body == encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert max(map(len, chunks)) <= 16


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_encoder_embeddings_equal_padded_batches_exactly(pooling: str) -> None:
    encoder = Encoder(device="cpu", max_tokens=32, pooling=pooling)
    chunks = [chunk for text in encoder.chunk_ids([*TEXTS, " ".join(TEXTS * 9)]) for chunk in text]
    expected = torch.empty(len(chunks), encoder.width)
    for batch in batches_by_length([len(chunk) for chunk in chunks], 100):
        rows = [torch.tensor(chunks[i]) for i in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.no_grad():
            expected[batch] = encoder.pooled(ids, mask)
    assert torch.equal(encoder.embed(chunks, 100), expected)
    assert encoder.embed([]).shape == (0, encoder.width)


def test_classifier_in_two_threads_equals_one_thread() -> None:
    encoder = Encoder(device="cpu", max_tokens=32, layers=1)
    random = torch.Generator().manual_seed(0)
    head = Head(torch.randn(6, encoder.width, generator=random), torch.zeros(6))
    classifier, counter = Classifier(encoder, head), TokenCounter(encoder.model)
    calls = [[f"{text} {n}" * (n + 1) for text in TEXTS] for n in range(6)]
    expected = [classifier.predict(texts) for texts in calls]
    counted = counter.take()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(classifier.predict, calls)) == expected
    tokens = sum(len(chunk) for texts in calls for text in encoder.chunk_ids(texts) for chunk in text)
    assert counter.take() == counted
    assert counted[0] == tokens
