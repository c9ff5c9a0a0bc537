"""A first look that costs next to nothing: most of the web is plainly safe, and the encoder need not read it.

Hashed words and pairs of words, and a linear model on them that was fitted to the encoder's own
scores. A text whose risk stays below the threshold in every piece is settled with score 0; all others
go on to the encoder. The threshold is calibrated and audited by `jobs.cascade`.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from safety_ray.errors import UserError
from safety_ray.records import SCORES

BY = CASCADE, CLASSIFIER = "cascade", "classifier"
"""The values of the column `settled_by`."""
FOLDER = "first_look"

Floats = npt.NDArray[np.float32]


class FirstLook:
    """Reads texts in pieces of `piece` characters, so that a harmful passage is not lost in a long text."""

    def __init__(self, weight: Floats, bias: Floats, *, piece: int, unsafe_from: int, threshold: float):
        """`weight` (features, 6) and `bias` (6,) of the linear model; a risk below `threshold` settles."""
        self.weight, self.bias = weight, bias
        self.piece, self.unsafe_from, self.threshold = piece, unsafe_from, threshold
        self._vectorizer = _vectorizer(len(weight))

    @classmethod
    def fit(
        cls,
        pieces: list[str],
        scores: list[int],
        *,
        features: int,
        strength: float,
        piece: int,
        unsafe_from: int,
    ) -> FirstLook:
        """Fit to the encoder's `scores` of `pieces`; `strength` is the inverse of the ridge penalty.

        Raises UserError where all pieces have one score.
        """
        if len(set(scores)) < 2:
            raise UserError(
                f"the classifier gives all {len(pieces):,} pieces of the texts to fit on the score "
                f"{scores[0] if scores else None}: there is nothing to tell apart; give other documents."
            )
        # Here, since most actors that import this file have no cascade.
        from sklearn.linear_model import LogisticRegression

        found = LogisticRegression(C=strength, max_iter=200).fit(
            _vectorizer(features).transform(pieces), scores
        )
        weight, bias = np.zeros((features, SCORES), np.float32), np.full(SCORES, -30.0, np.float32)
        if len(found.classes_) == 2:  # sklearn keeps one row for two classes: the second one's
            weight[:, found.classes_[1]], bias[found.classes_] = found.coef_[0], [0.0, found.intercept_[0]]
        else:
            weight[:, found.classes_], bias[found.classes_] = found.coef_.T, found.intercept_
        return cls(weight, bias, piece=piece, unsafe_from=unsafe_from, threshold=0.0)

    def probabilities(self, texts: list[str]) -> Floats:
        """(texts, 6) probabilities of each text's riskiest piece."""
        pieces = [cut(text, self.piece) for text in texts]
        if not pieces:
            return np.zeros((0, SCORES), np.float32)
        hashed = self._vectorizer.transform([p for some in pieces for p in some])
        logits = hashed @ self.weight + self.bias
        probs = np.exp(logits - logits.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        starts = np.cumsum([0, *map(len, pieces)])
        risks = self.risk(probs)
        riskiest = [a + int(risks[a:b].argmax()) for a, b in pairwise(starts)]
        return np.asarray(probs[riskiest], np.float32)

    def risk(self, probs: Floats) -> Floats:
        """(n,) probability of a score of `unsafe_from` or more."""
        return np.asarray(probs[:, self.unsafe_from :].sum(1))

    def settle(self, texts: list[str]) -> list[list[float] | None]:
        """For each text its six probabilities where it is settled with score 0, else None."""
        probs = self.probabilities(texts)
        settled = self.risk(probs) < self.threshold
        return [[round(float(x), 6) for x in p] if s else None for p, s in zip(probs, settled, strict=True)]

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.weight, "bias": self.bias}, folder / "linear.safetensors")
        settings = {"piece": self.piece, "unsafe_from": self.unsafe_from, "threshold": self.threshold}
        (folder / "first_look.json").write_text(json.dumps(settings, indent=1))

    @classmethod
    def load(cls, path: str | Path) -> FirstLook:
        """The first look in `path`, a finished cascade's folder; UserError where there is none."""
        folder = Path(path) / FOLDER
        if not (folder / "linear.safetensors").is_file():
            raise UserError(f"'{path}' holds no cascade; make one with python -m jobs.cascade.")
        settings: dict[str, Any] = json.loads((folder / "first_look.json").read_text())
        return cls(**load_file(folder / "linear.safetensors"), **settings)


def cut(text: str, piece: int) -> list[str]:
    """`text` in pieces of `piece` characters."""
    return [text[i : i + piece] for i in range(0, max(len(text), 1), piece)]


def _vectorizer(features: int) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    # One word may be a whole slur: tokens of one letter and marks within a word stay.
    return HashingVectorizer(
        n_features=features,
        ngram_range=(1, 2),
        token_pattern=r"(?u)\b\w+\b",
        alternate_sign=False,
        dtype=np.float32,
    )
