"""Fit the judge `harm_answer` on PyRIT's labels of harm and on harmless answers, after a cross-validation.

    python -m benchmarks.judges.fit data=$SAFETY_RAY_DATA pyrit=pyrit-1.1.0-py3-none-any.whl

With `output=safety_ray/evaluate/judges/harm_answer.safetensors` the weights become part of the package. Each
category of harm, which is a file of PyRIT or two, is also left out in turn.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.judges import sets
from benchmarks.judges.settings import JudgesBenchmark
from safety_ray.classifier.datasets.questions import DOLLY
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.job import main
from safety_ray.core.records import stable_hash
from safety_ray.evaluate.judges import Answer, harm_answer
from safety_ray.evaluate.judges.harm_answer import Sparse

FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Fit the judge harm_answer."""

    data: str = setting("folder of real data with refusal_judge/")
    pyrit: str = setting("wheel of PyRIT, or a folder with its contents")
    output: str = setting("file to write the weights to; empty: none", default="")
    c: float = setting("inverse strength of the ridge penalty", default=10.0)

    def __post_init__(self) -> None:
        if self.c <= 0:
            raise UserError(f"c={self.c} must be positive, such as 10.")


def features(answers: list[Answer]) -> csr_matrix:
    """Return the features of `harm_answer`: of the answers, of the prompts, and cues."""
    blocks = [
        _sparse([harm_answer.answer_features(answer) for answer in answers], harm_answer.ANSWER_COLUMNS),
        _sparse([harm_answer.prompt_features(answer) for answer in answers], harm_answer.PROMPT_COLUMNS),
        csr_matrix(np.stack([harm_answer.cue_features(answer) for answer in answers])),
    ]
    return hstack(blocks, format="csr")


def _sparse(rows: list[Sparse], width: int) -> csr_matrix:
    columns, values = (np.concatenate([row[part] for row in rows]) for part in (0, 1))
    starts = np.cumsum([0, *(len(row[0]) for row in rows)])
    return csr_matrix((values, columns, starts), shape=(len(rows), width))


def fit(x: csr_matrix, harmful: np.ndarray, c: float) -> LogisticRegression:
    """Return the regression; its solver has a fixed seed."""
    return LogisticRegression(C=c, solver="liblinear", max_iter=1000, tol=1e-3, random_state=0).fit(
        x, harmful
    )


def crossed(x: csr_matrix, harmful: np.ndarray, groups: np.ndarray, c: float) -> np.ndarray:
    """Return the logit of each row by a regression without the rows of its group; group -1 is always used."""
    logits = np.zeros(len(harmful))
    for group in np.unique(groups[groups >= 0]):
        out = groups == group
        logits[out] = fit(x[~out], harmful[~out], c).decision_function(x[out])
    return logits


def weights(model: LogisticRegression) -> dict[str, np.ndarray]:
    """Return the weights of a regression as `HarmAnswer` reads them, in fp32."""
    ends = np.cumsum([harm_answer.ANSWER_COLUMNS, harm_answer.PROMPT_COLUMNS])
    answer, prompt, cues = (part.copy() for part in np.split(model.coef_[0].astype(np.float32), ends))
    return {"answer": answer, "prompt": prompt, "cues": cues, "bias": model.intercept_.astype(np.float32)}


def harmless(data: str) -> list[Answer]:
    """Return the responses of Dolly. Without them, any answer that is no refusal is called harmful."""
    with Path(data, DOLLY.path).open(newline="", encoding="utf-8") as lines:
        return [Answer(row["instruction"], row["response"]) for row in csv.DictReader(lines)]


def run(config: FitConfig) -> dict[str, Any]:
    """Print the cross-validated accuracy, and write the weights to `config.output`."""
    loaded = sets.load(JudgesBenchmark(data=config.data, pyrit=config.pyrit))
    fitted_on = [labelled for labelled in loaded if labelled.name in harm_answer.JUDGE.fitted_on]
    rows = [row for labelled in fitted_on for row in labelled.rows]
    added = harmless(config.data)
    x = features([*(row.answer for row in rows), *added])
    harmful = np.array([bool(row.harmful) for row in rows] + [False] * len(added))
    folds = [stable_hash("fold", row.answer.prompt) % FOLDS for row in rows]
    names = [row.file.removesuffix(".csv").removesuffix("_multi_score") for row in rows]
    categories = [sorted(set(names)).index(name) for name in names]
    for what, groups in (("prompts", folds), ("categories", categories)):
        logits = crossed(x, harmful, np.array(groups + [-1] * len(added)), config.c)[: len(rows)]
        flagged, label = logits >= 0, harmful[: len(rows)]
        print(
            f"{what} left out: AUROC {roc_auc_score(label, logits):.3f}, "
            f"sensitivity {flagged[label].mean():.1%} of {label.sum()}, "
            f"specificity {(~flagged)[~label].mean():.1%} of {(~label).sum()}",
            flush=True,
        )
    if config.output:
        save_file(weights(fit(x, harmful, config.c)), config.output)
    return {}


if __name__ == "__main__":
    main(FitConfig, run)
