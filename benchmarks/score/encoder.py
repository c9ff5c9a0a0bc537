"""The classifier in one process and one thread against other ways to encode the same documents."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModel

from benchmarks.score.settings import ScoreBenchmark, in_turns
from benchmarks.score.texts import documents
from safety_ray.classifier.batches import TokenCounter
from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.encoder import packaged_folder


def rows(config: ScoreBenchmark) -> Iterator[str]:
    torch.set_num_threads(1)
    table = documents(config.data, config.documents // len(config.sources), config.sources)
    texts = table.column("text").to_pylist()
    ours, exact = (Classifier.load(config.classifier, "cpu") for _ in range(2))
    exact.encoder.dtype = torch.float32
    exact.encoder.model = AutoModel.from_pretrained(packaged_folder()).eval()
    chunks = [chunk for some in ours.encoder.chunk_ids(texts) for chunk in some]
    ids = [token for chunk in chunks for token in chunk]
    tokens, width = len(ids), ours.encoder.max_tokens
    at_once = max(1, 2048 // width)  # what is fastest here
    packed = [ids[i : i + width] for i in range(0, tokens - width + 1, width)]
    counts = {name: TokenCounter(c.encoder.model) for name, c in {"ours": ours, "fp32": exact}.items()}
    scores: dict[str, np.ndarray] = {}
    padding: dict[str, tuple[int, int]] = {}

    def plain() -> None:
        batches = [chunks[i : i + 32] for i in range(0, len(chunks), 32)]
        # A budget that never cuts: the batch is the one given, padded to its longest.
        probs = [exact.logits(batch, 1 << 30).softmax(-1) for batch in batches]
        scores["plain"] = torch.cat(probs).numpy()
        padding["plain"] = counts["fp32"].take()

    def predicted() -> None:
        counts["ours"].take()
        scores["ours"] = ours.logits(chunks).softmax(-1).numpy()
        padding["ours"] = counts["ours"].take()

    def bare() -> None:
        with torch.no_grad():
            for i in range(0, len(packed), at_once):
                batch = torch.tensor(packed[i : i + at_once])
                ours.encoder.model(input_ids=batch, attention_mask=torch.ones_like(batch))

    ways: dict[str, Callable[[], object]] = {
        "batches of 32 as they come, fp32": plain,
        "classifier.predict": lambda: ours.predict(texts),
        "its encoder, tokens given": predicted,
        f"bare model, full batches of {width}-token rows": bare,
    }
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(packaged_folder()), device="cpu")
        ways["sentence-transformers encode (cuts at 256)"] = lambda: model.encode(texts, batch_size=32)
        cut = sum(min(len(i), width) for i in model.tokenizer(texts)["input_ids"])
    else:
        yield "sentence-transformers is not installed: its row is left out.\n"
        cut = 0
    costs = in_turns(ways, config.rounds)
    work = dict.fromkeys(ways, tokens) | {list(ways)[3]: len(packed) * width}
    work["sentence-transformers encode (cuts at 256)"] = cut
    shown = dict(zip(list(ways)[:3], ("plain", "ours", "ours"), strict=True))
    yield f"{len(texts):,} documents, {tokens:,} tokens, one thread; {config.rounds} rounds in turns\n"
    yield "| way | tokens per CPU second | tokens/s | documents per CPU second | padding |"
    yield "|---|---|---|---|---|"
    for name, cost in costs.items():
        real, computed = padding[shown[name]] if name in shown else (1, 1)
        share = f"{1 - real / computed:.1%}" if name in shown else ""
        yield f"| {name} | {cost.of(work[name])} | {len(texts) / np.median(cost.cpu):,.1f} | {share} |"
    yield "\n" + agreement(scores["plain"], scores["ours"], table, ours.encoder.chunk_ids(texts))


def agreement(exact: np.ndarray, ours: np.ndarray, table: object, chunked: list[list[list[int]]]) -> str:
    """How far apart the two ways' scores are, and their AUROC on the labels that the texts have."""
    same = float((exact.argmax(1) == ours.argmax(1)).mean())
    owner = np.repeat(np.arange(len(chunked)), [len(chunks) for chunks in chunked])
    risks = []
    for probs in (exact, ours):
        risk = np.zeros(len(chunked))
        np.maximum.at(risk, owner, probs[:, 1:].sum(1))
        risks.append(risk)
    labels = table.column("label").to_pylist()  # type: ignore[attr-defined]
    known = [i for i, label in enumerate(labels) if label is not None]
    unsafe = [labels[i] > 0 for i in known]
    aurocs = [float(roc_auc_score(unsafe, risk[known])) for risk in risks]
    return (
        f"{same:.1%} of the chunks get the same score in both precisions; AUROC of unsafe against safe "
        f"{aurocs[0]:.4f} in fp32, {aurocs[1]:.4f} as the job does it"
    )
