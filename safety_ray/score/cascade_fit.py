"""documents + classifier → cascade: a first look learnt from the encoder's scores, calibrated, audited.

Three parts of a sample: one to fit on and one to calibrate on, of the same sources, and one of held-out
sources, whose figures say what the cascade does to text of a kind it has not seen. The threshold is
split-conformal (Vovk et al. 2005): of n calibration texts that the encoder finds unsafe, the risk of
rank floor((n + 1)(1 - recall)) from below; on exchangeable texts the expected recall is no less.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from scipy.stats import binomtest

from safety_ray import artifact, dataset, filesystem
from safety_ray.config import setting
from safety_ray.errors import UserError
from safety_ray.records import DOCUMENT, SCORES, Column, require, stable_hash
from safety_ray.score.cascade import FOLDER, FirstLook, Floats, cut
from safety_ray.score.classifier import Classifier

FIT, CALIBRATE, HELDOUT = "fit", "calibrate", "heldout"


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig:
    """Fits a first look that settles plainly safe texts before the classifier's encoder reads them."""

    documents: str = setting("dataset with id, text and a column that names each text's source")
    classifier: str = setting("folder of a finished fit: whose scores are learnt and kept to")
    output: str = setting("folder to write")
    source: str = setting("column that names the source: a site, a crawl, a collection", default="source")
    heldout: list[str] = setting("sources to audit on, never fitted to; empty: a share of them", factory=list)
    heldout_share: float = setting("share of the sources to audit on, where none are named", default=0.3)
    sample: int = setting("documents to take of the dataset", default=20000)
    recall: float = setting(
        "share of the texts that the encoder finds unsafe which must reach it", default=0.995
    )
    unsafe_from: int = setting("lowest score that counts as unsafe; what is settled gets score 0", default=1)
    piece: int = setting("characters that are looked at together", default=1000)
    features: int = setting("weights of the hashed words and pairs of words", default=1 << 18)
    strength: float = setting("inverse of the ridge penalty on them", default=10.0)
    seed: int = setting("seed of the sample and its parts", default=0)

    def __post_init__(self) -> None:
        if not 0 < self.recall < 1 or not 0 < self.heldout_share < 1:
            raise UserError("recall and heldout_share must lie between 0 and 1.")
        if not 1 <= self.unsafe_from < SCORES:
            raise UserError(f"unsafe_from={self.unsafe_from} must lie between 1 and {SCORES - 1}.")
        if min(self.sample, self.piece, self.features) < 1 or self.strength <= 0:
            raise UserError("sample, piece, features and strength must be positive.")


def run(config: CascadeConfig) -> dict[str, Any]:
    inputs = {"documents": config.documents, **artifact.local_input("classifier", config.classifier)}
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    parts = split(drawn(config), config)
    classifier = Classifier.load(config.classifier)
    look = fit(parts[FIT]["text"].to_pylist(), classifier, config)
    calibration = parts[CALIBRATE]["text"].to_pylist()
    risks = look.risk(look.probabilities(calibration))
    scores = np.array([p.score for p in classifier.predict(calibration)])
    look.threshold = threshold(risks[scores >= config.unsafe_from], config.recall)
    look.save(out.sub(FOLDER))
    heldout, seconds = _look_and_read(look, classifier, parts[HELDOUT]["text"].to_pylist())
    found = {
        CALIBRATE: _table(parts[CALIBRATE], CALIBRATE, scores, risks, look.threshold),
        HELDOUT: _table(parts[HELDOUT], HELDOUT, *heldout, look.threshold),
    }
    audit = {
        "threshold": look.threshold,
        "calibrated_on": measure(found[CALIBRATE], config.unsafe_from),
        "heldout": measure(found[HELDOUT], config.unsafe_from),
        "heldout_sources": {
            name: measure(
                found[HELDOUT].filter(pa.compute.equal(found[HELDOUT]["source"], name)), config.unsafe_from
            )
            for name in sorted(set(found[HELDOUT]["source"].to_pylist()))
        },
        "documents_per_cpu_s": {n: round(len(parts[HELDOUT]) / s, 1) for n, s in seconds.items()},
    }
    dataset.write_table(pa.concat_tables(found.values()), out.sub("data", "audit.parquet"))
    with fsspec.open(out.sub("audit.json"), "w") as file:
        json.dump(audit, file, indent=1, ensure_ascii=False)
    print(page(audit, config))
    sizes = {name: len(part) for name, part in parts.items()}
    return out.commit(
        rows_in=sum(sizes.values()), rows_out=sizes[CALIBRATE] + sizes[HELDOUT], balanced=False,
        parts=sizes, audit=audit,
    )  # fmt: skip


def drawn(config: CascadeConfig) -> pa.Table:
    """id, text and source of about `sample` documents, chosen by seed and id; the rest is only read past."""
    needed = (*DOCUMENT, Column(config.source, pa.string(), "where each text is from"))
    require(needed, dataset.columns(config.documents), f"'{config.documents}'")
    fs, _ = filesystem.find(config.documents)
    names = [name.split("://", 1)[-1] for name in dataset.files(config.documents)]
    rows = pads.dataset(names, filesystem=fs, format="parquet")
    share = config.sample / max(1, rows.count_rows())
    kept = []
    for batch in rows.to_batches(columns=["id", "text", config.source]):
        chances = [_chance(config.seed, "sample", id) for id in batch.column("id").to_pylist()]
        kept.append(batch.filter(pa.array([chance < share for chance in chances])))
    if not sum(map(len, kept)):
        raise UserError(f"'{config.documents}' holds no documents.")
    table = pa.Table.from_batches(kept)
    table = table.rename_columns(["id", "text", "source"])
    return table.set_column(2, "source", table.column("source").cast(pa.string())).sort_by("id")


def split(rows: pa.Table, config: CascadeConfig) -> dict[str, pa.Table]:
    """The three parts; UserError for a held-out source that is not there, or a part without rows."""
    sources = [name or "" for name in rows.column("source").to_pylist()]
    if unknown := sorted(set(config.heldout) - set(sources)):
        raise UserError(f"heldout: no document has {config.source} '{unknown[0]}'.")
    held = set(config.heldout) or {
        name for name in sources if _chance(config.seed, "heldout", name) < config.heldout_share
    }
    part = [
        HELDOUT if name in held else (FIT, CALIBRATE)[_chance(config.seed, "part", id) < 0.5]
        for name, id in zip(sources, rows.column("id").to_pylist(), strict=True)
    ]
    parts = {n: rows.filter(pa.array([p == n for p in part])) for n in (FIT, CALIBRATE, HELDOUT)}
    if empty := [n for n, some in parts.items() if not len(some)]:
        raise UserError(
            f"{len(rows)} documents of {len(set(sources))} sources leave none to {empty[0]}: "
            "give more sources, or name those to hold out with heldout=[...]."
        )
    return parts


def fit(texts: Sequence[str], classifier: Classifier, config: CascadeConfig) -> FirstLook:
    """A first look that has learnt the classifier's scores of the pieces of `texts`."""
    pieces = [piece for text in texts for piece in cut(text, config.piece)]
    return FirstLook.fit(
        pieces, [p.score for p in classifier.predict(pieces)],
        features=config.features, strength=config.strength, piece=config.piece,
        unsafe_from=config.unsafe_from,
    )  # fmt: skip


def threshold(unsafe: Floats, recall: float) -> float:
    """The risk below which a text is settled, from the risks of `unsafe` texts; UserError for too few."""
    rank = int((len(unsafe) + 1) * (1 - recall) + 1e-9)
    if rank < 1:
        raise UserError(
            f"the classifier finds {len(unsafe)} of the calibration texts unsafe, and recall={recall} needs "
            f"{round(1 / (1 - recall)) - 1}: give more documents, a lower recall or another unsafe_from."
        )
    return float(np.sort(unsafe)[rank - 1])


def measure(table: pa.Table, unsafe_from: int) -> dict[str, Any]:
    """What the cascade does to the texts of `table` (score, settled), with the encoder as the truth."""
    unsafe = np.array(table.column("score")) >= unsafe_from
    settled = np.array(table.column("settled"))
    missed, n = int((unsafe & settled).sum()), int(unsafe.sum())
    ci = binomtest(n - missed, n).proportion_ci(method="exact") if n else None
    return {
        "documents": len(table),
        "settled": round(float(settled.mean()), 4),
        "unsafe": n,
        "missed": missed,
        "missed_scores": np.bincount(
            np.array(table.column("score"))[unsafe & settled], minlength=SCORES
        ).tolist(),
        "recall": round(1 - missed / n, 4) if n else None,
        "recall_interval": [round(ci.low, 4), round(ci.high, 4)] if ci else None,
    }


def page(audit: dict[str, Any], config: CascadeConfig) -> str:
    """The audit as a table for a person."""
    rows = {"calibrated on": audit["calibrated_on"], "held-out sources": audit["heldout"]}
    rows |= {f"  {name}": found for name, found in audit["heldout_sources"].items()}
    lines = [f"{'':<24}{'documents':>10}{'settled':>9}{'unsafe':>8}{'missed':>8}  recall (95 % interval)"]
    for name, r in rows.items():
        recall = (
            "-"
            if r["recall"] is None
            else "{:.1%} ({:.1%}–{:.1%})".format(r["recall"], *r["recall_interval"])
        )
        counts = f"{r['documents']:>10,}{r['settled']:>9.1%}{r['unsafe']:>8,}{r['missed']:>8,}"
        lines.append(f"{name[:24]:<24}{counts}  {recall}")
    speed = audit["documents_per_cpu_s"]
    lines.append(
        f"\nasked for: {config.recall:.1%} of what the encoder scores {config.unsafe_from} or more; held-out "
        f"documents a second of CPU time: {speed['with']:,} with the cascade, {speed['without']:,} without."
    )
    return "\n".join(lines)


def _look_and_read(
    look: FirstLook, classifier: Classifier, texts: list[str]
) -> tuple[tuple[Any, Floats], dict[str, float]]:
    """(scores, risks) of `texts`, and the CPU seconds of scoring them with the cascade and without."""
    times = [time.process_time()]
    risks = look.risk(look.probabilities(texts))
    times.append(time.process_time())
    scores = np.zeros(len(texts), int)
    for settled in (False, True):
        at = np.flatnonzero((risks < look.threshold) == settled)
        scores[at] = [p.score for p in classifier.predict([texts[i] for i in at])]
        times.append(time.process_time())
    looked, rest, others = np.diff(times)
    return (scores, risks), {"with": looked + rest, "without": rest + others}


def _table(part: pa.Table, name: str, scores: Any, risks: Floats, below: float) -> pa.Table:
    columns = {
        "score": pa.array(scores, pa.int8()),
        "risk": pa.array(risks),
        "settled": pa.array(risks < below),
    }
    table = part.append_column("part", pa.array([name] * len(part)))
    for column, values in columns.items():
        table = table.append_column(column, values)
    return table


def _chance(seed: int, what: str, name: str) -> float:
    return stable_hash(seed, "cascade", what, name) / 2**64
