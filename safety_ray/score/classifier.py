"""The harm classifier: an encoder and a linear head over the six scores (paper, section 1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from safety_ray.errors import UserError
from safety_ray.records import SCORES
from safety_ray.score.encoder import PACKAGED, Encoder


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the classifier says of one text."""

    score: int
    """0-5, the highest of the chunks' scores"""
    probs: list[float]
    """six probabilities, of the chunk that decided"""
    chunk_scores: list[int]
    """one score per chunk, in order"""


class Classifier:
    """Scores texts 0-5. A long text is split in chunks, and its score is the highest of theirs."""

    def __init__(self, encoder: Encoder, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """`weight` (6, width) and `bias` (6,) of the head, fp32."""
        self.encoder, self.weight, self.bias = encoder, weight.float(), bias.float()

    def predict(self, texts: list[str], batch_tokens: int = 4096) -> list[Prediction]:
        """One prediction per text; equal texts are classified once."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return []
        chunked = self.encoder.chunk_ids(unique)
        flat = [chunk for chunks in chunked for chunk in chunks]
        probs = self.probabilities(self.encoder.embed(flat, batch_tokens))
        found: dict[str, Prediction] = {}
        at = 0
        for text, chunks in zip(unique, chunked, strict=True):
            found[text] = combine(probs[at : at + len(chunks)])
            at += len(chunks)
        return [found[text] for text in texts]

    def probabilities(self, embedded: torch.Tensor) -> torch.Tensor:
        """(n, width) embeddings to (n, 6) probabilities."""
        return (embedded @ self.weight.T + self.bias).softmax(-1)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()},
            folder / "head.safetensors",
        )
        settings = {"encoder": self.encoder.name, "max_tokens": self.encoder.max_tokens}
        (folder / "classifier.json").write_text(json.dumps(settings, indent=1))

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> Classifier:
        """The classifier in `path`, a finished fit's folder; UserError where there is none."""
        folder = Path(path)
        folder = folder / "classifier" if (folder / "classifier").is_dir() else folder
        if not (folder / "head.safetensors").is_file():
            raise UserError(f"'{path}' holds no classifier; make one with python -m jobs.fit.")
        settings = json.loads((folder / "classifier.json").read_text())
        head = load_file(folder / "head.safetensors")
        encoder = Encoder(settings["encoder"] or PACKAGED, settings["max_tokens"], device)
        if head["weight"].shape != (SCORES, encoder.width):
            raise UserError(
                f"the head in '{folder}' has shape {tuple(head['weight'].shape)}, but the encoder "
                f"'{encoder.name}' needs ({SCORES}, {encoder.width})."
            )
        return cls(encoder, head["weight"], head["bias"])


def combine(probs: torch.Tensor) -> Prediction:
    """(chunks, 6) probabilities of one text to its prediction: the most harmful chunk decides."""
    scores: list[int] = probs.argmax(-1).tolist()
    best = max(scores)
    # Among chunks of the same score the surest one speaks.
    chunk = max((i for i, s in enumerate(scores) if s == best), key=lambda i: float(probs[i, best]))
    return Prediction(best, [round(p, 6) for p in probs[chunk].tolist()], scores)
