"""The classifier in one process and one thread, compared with other ways to encode the same documents."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModel

from benchmarks.score.settings import ScoreBenchmark, measure_alternately
from benchmarks.score.texts import documents
from safety_ray.classifier.batches import TokenCounter
from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.encoder import packaged_folder

_SENTENCE_TRANSFORMERS = "sentence-transformers encode (truncates at 256)"


def rows(config: ScoreBenchmark) -> Iterator[str]:
    """Yield the lines of the table."""
    torch.set_num_threads(1)
    table = documents(config.data, config.documents // len(config.sources), config.sources)
    texts = table.column("text").to_pylist()
    ours, exact = (Classifier.load(config.classifier, "cpu") for _ in range(2))
    exact.encoder.dtype = torch.float32
    exact.encoder.model = AutoModel.from_pretrained(packaged_folder(), use_safetensors=True).eval()
    chunks = [chunk for text_chunks in ours.encoder.chunk_ids(texts) for chunk in text_chunks]
    ids = [token for chunk in chunks for token in chunk]
    tokens, width = len(ids), ours.encoder.max_tokens
    batch_rows = max(1, 2048 // width)  # the fastest batch on a CPU
    packed = [ids[i : i + width] for i in range(0, tokens - width + 1, width)]
    counts = {name: TokenCounter(c.encoder.model) for name, c in {"ours": ours, "fp32": exact}.items()}
    scores: dict[str, np.ndarray] = {}
    padding: dict[str, tuple[int, int]] = {}

    def plain() -> None:
        batches = [chunks[i : i + 32] for i in range(0, len(chunks), 32)]
        # A budget that never splits a batch: each is padded to its longest text.
        probs = [exact.logits(batch, 1 << 30).softmax(-1) for batch in batches]
        scores["plain"] = torch.cat(probs).numpy()
        padding["plain"] = counts["fp32"].take()

    def predicted() -> None:
        counts["ours"].take()
        scores["ours"] = ours.logits(chunks).softmax(-1).numpy()
        padding["ours"] = counts["ours"].take()

    def bare() -> None:
        with torch.no_grad():
            for i in range(0, len(packed), batch_rows):
                batch = torch.tensor(packed[i : i + batch_rows])
                ours.encoder.model(input_ids=batch, attention_mask=torch.ones_like(batch))

    variants: dict[str, Callable[[], object]] = {
        "batches of 32 in order of the texts, fp32": plain,
        "classifier.predict": lambda: ours.predict(texts),
        "its encoder, without tokenization": predicted,
        f"bare model, full batches of {width}-token rows": bare,
    }
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(packaged_folder()), device="cpu")
        variants[_SENTENCE_TRANSFORMERS] = lambda: model.encode(texts, batch_size=32)
        truncated = sum(min(len(i), width) for i in model.tokenizer(texts)["input_ids"])
    else:
        yield "sentence-transformers is not installed, so its row is missing.\n"
        truncated = 0
    costs = measure_alternately(variants, config.rounds)
    work = dict.fromkeys(variants, tokens) | {list(variants)[3]: len(packed) * width}
    work[_SENTENCE_TRANSFORMERS] = truncated
    counted = dict(zip(list(variants)[:3], ("plain", "ours", "ours"), strict=True))
    yield f"{len(texts):,} documents, {tokens:,} tokens, one thread; {config.rounds} alternating rounds\n"
    yield "| variant | tokens per CPU second | tokens/s | documents per CPU second | padding |"
    yield "|---|---|---|---|---|"
    for name, cost in costs.items():
        real, computed = padding[counted[name]] if name in counted else (1, 1)
        share = f"{1 - real / computed:.1%}" if name in counted else ""
        yield f"| {name} | {cost.of(work[name])} | {len(texts) / np.median(cost.cpu):,.1f} | {share} |"
    yield "\n" + agreement(scores["plain"], scores["ours"], table, ours.encoder.chunk_ids(texts))


def agreement(exact: np.ndarray, ours: np.ndarray, table: object, chunked: list[list[list[int]]]) -> str:
    """Compare the scores of both precisions, and their AUROC on the labelled texts."""
    same = float((exact.argmax(1) == ours.argmax(1)).mean())
    owner = np.repeat(np.arange(len(chunked)), [len(chunks) for chunks in chunked])
    risks = []
    for probs in (exact, ours):
        risk = np.zeros(len(chunked))
        np.maximum.at(risk, owner, probs[:, 1:].sum(1))
        risks.append(risk)
    labels = table.column("label").to_pylist()  # type: ignore[attr-defined]
    labelled = [i for i, label in enumerate(labels) if label is not None]
    unsafe = [labels[i] > 0 for i in labelled]
    aurocs = [float(roc_auc_score(unsafe, risk[labelled])) for risk in risks]
    return (
        f"{same:.1%} of the chunks have the same score in both precisions; AUROC of unsafe against safe "
        f"{aurocs[0]:.4f} in fp32, {aurocs[1]:.4f} in the precision of the job"
    )
