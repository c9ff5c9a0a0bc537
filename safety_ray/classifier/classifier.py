"""The harm classifier: an encoder and a linear head over the six scores (paper, section 1)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safety_ray.classifier import packaged
from safety_ray.classifier.encoder import Encoder
from safety_ray.classifier.sequence import SequenceClassifier
from safety_ray.core import filesystem
from safety_ray.core.chunks import Chunk
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES

_SETTINGS, _HEAD, _ENCODER = "classifier.json", "head.safetensors", "encoder"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The classifier's result for one text."""

    score: int
    """0-5, the highest score of the chunks"""
    probs: list[float]
    """six probabilities, of the chunk that decides"""
    scored_chunks: list[Chunk]
    """in order, with their scores"""


@dataclass(frozen=True, slots=True)
class Head:
    """A linear head: `weight` (6, width) and `bias` (6,), fp32."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, embedded: torch.Tensor) -> torch.Tensor:
        """Map (n, width) embeddings to (n, 6) logits."""
        return embedded @ self.weight.T + self.bias


class Classifier:
    """A classifier of texts, 0-5. A long text is split into chunks and gets the highest of their scores."""

    def __init__(
        self, encoder: Encoder | SequenceClassifier, head: Head | None = None, temperature: float = 1.0
    ) -> None:
        """An `Encoder` needs a `head`; a `SequenceClassifier` has one. `temperature` divides the logits."""
        self.encoder, self.head, self.temperature = encoder, head, temperature

    def predict(self, texts: list[str], batch_tokens: int = 0) -> list[Prediction]:
        """Return one prediction per text; equal texts are classified once."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return []
        chunked, ends = self.encoder.split(unique)
        flat = [chunk for chunks in chunked for chunk in chunks]
        probs = (self.logits(flat, batch_tokens) / self.temperature).softmax(-1)
        predictions: dict[str, Prediction] = {}
        start = 0
        for text, ends_of_text in zip(unique, ends, strict=True):
            predictions[text] = combine(probs[start : start + len(ends_of_text)], ends_of_text)
            start += len(ends_of_text)
        return [predictions[text] for text in texts]

    def logits(self, chunks: list[list[int]], batch_tokens: int = 0) -> torch.Tensor:
        """Return (chunks, 6) fp32 logits, before the temperature."""
        if isinstance(self.encoder, SequenceClassifier):
            return self.encoder.logits(chunks, batch_tokens)
        assert self.head is not None
        return self.head(self.encoder.embed(chunks, batch_tokens))

    def save(self, folder: str | Path, own_encoder: bool = False) -> None:
        """Write the folder or URL that `load` reads.

        With `own_encoder` it has the encoder's weights, else the encoder's name. A folder keeps its other
        files, a URL does not.
        """
        if filesystem.is_local(str(folder)):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._write(Path(folder), own_encoder)
            return
        with filesystem.written_at_once(str(folder)) as part:
            self._write(Path(part), own_encoder)

    def _write(self, folder: Path, own_encoder: bool) -> None:
        settings: dict[str, Any] = {
            "kind": "sequence" if self.head is None else "head",
            "encoder": _ENCODER if own_encoder else self.encoder.name,
            "max_tokens": self.encoder.max_tokens,
            "trust_remote_code": self.encoder.trust_remote_code,
            "temperature": self.temperature,
        }
        if isinstance(self.encoder, Encoder) and self.head is not None:
            settings |= {"pooling": self.encoder.pooling, "layers": self.encoder.layers}
            tensors = {"weight": self.head.weight.contiguous(), "bias": self.head.bias.contiguous()}
            save_file(tensors, folder / _HEAD)
        if own_encoder:
            self.encoder.model.save_pretrained(folder / _ENCODER)
            self.encoder.tokenizer.save_pretrained(folder / _ENCODER)
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=1))

    @classmethod
    def load(
        cls, path: str | Path, device: str | None = None, *, trust_remote_code: bool = False
    ) -> Classifier:
        """Load the shipped classifier (`default`), that of a finished fit, or a sequence classifier.

        `path` is a name, a folder, a URL or a hub id. Raises UserError if it is no classifier, or if it needs
        code that comes with a model and `trust_remote_code` is not set; a sequence classifier is one of
        transformers with six labels.
        """
        if packaged.is_default(path):
            path = packaged.default_folder()
            packaged.fingerprint(path)  # an installation without the files fails here, with a message
        path = str(path).rstrip("/")
        fs, root = filesystem.find(path)
        path = f"{path}/classifier" if fs.isdir(f"{root}/classifier") else path
        folder = Path(filesystem.local_copy(path))
        if not (folder / _SETTINGS).is_file():
            if folder.is_dir() and not _is_checkpoint(folder):
                raise UserError(f"'{path}' has no classifier; create one with python -m jobs.fit.")
            return cls(SequenceClassifier(str(folder), device=device, trust_remote_code=trust_remote_code))
        try:
            settings = json.loads((folder / _SETTINGS).read_text())
            head = load_file(folder / _HEAD) if settings.get("kind") == "head" else {}
        except (ValueError, SafetensorError) as error:  # for example a pointer of Git LFS
            raise UserError(f"'{path}' has a damaged {_SETTINGS} or {_HEAD}: {error}.") from error
        if "kind" not in settings:
            raise UserError(f"'{path}' was written by an earlier version; run its fit again.")
        own = settings["encoder"] == _ENCODER
        name = str(folder / _ENCODER) if own else settings["encoder"]
        trust = settings["trust_remote_code"]
        if trust and not trust_remote_code:  # the folder may be from anyone
            raise UserError(
                f"the classifier '{path}' runs code that comes with its encoder '{settings['encoder']}'. If "
                "you trust both, set trust_remote_code=true where classifier is set."
            )
        if settings["kind"] == "sequence":
            sequence = SequenceClassifier(name, settings["max_tokens"], device, trust_remote_code=trust)
            return cls(sequence, None, settings["temperature"])
        encoder = Encoder(
            name,
            settings["max_tokens"],
            device,
            pooling=settings["pooling"],
            layers=settings["layers"],
            trust_remote_code=trust,
        )
        if head["weight"].shape != (SCORES, encoder.width):
            raise UserError(
                f"the head in '{folder}' has shape {tuple(head['weight'].shape)}, but the encoder "
                f"'{encoder.name}' needs ({SCORES}, {encoder.width})."
            )
        return cls(encoder, Head(head["weight"].float(), head["bias"].float()), settings["temperature"])


def combine(probs: torch.Tensor, ends: list[int]) -> Prediction:
    """Return the prediction for a text with (chunks, 6) probabilities: the most harmful chunk decides.

    `ends` are the numbers of characters up to the end of each chunk.
    """
    scores: list[int] = probs.argmax(-1).tolist()
    chunk = deciding_chunk(probs)
    chunks = [Chunk(end=end, score=score) for end, score in zip(ends, scores, strict=True)]
    return Prediction(scores[chunk], [round(p, 6) for p in probs[chunk].tolist()], chunks)


def deciding_chunk(probs: torch.Tensor) -> int:
    """Return the chunk with the highest score; among equal scores, the one with the highest probability."""
    scores = probs.argmax(-1).tolist()
    highest = max(scores)
    return max(
        (i for i, score in enumerate(scores) if score == highest), key=lambda i: float(probs[i, highest])
    )


def _is_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a transformers checkpoint, not the config.json of a stage."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
