"""labelled texts → classifier: train a head on an encoder, optionally all parameters; measure and calibrate.

<output>/classifier/          the classifier
<output>/data/                scores of the held-out texts
<output>/metrics.json         all metrics; README.md and fit.png show them
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from safety_ray.classifier import datasets
from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.encoder import PACKAGED, POOLINGS, Encoder, encoder_folder
from safety_ray.classifier.sequence import SequenceClassifier, check_labels
from safety_ray.classifier.training import figure, page, parameters
from safety_ray.classifier.training.head import fit_chunks
from safety_ray.classifier.training.measures import calibrate, measure_needles, measure_rows, measure_sources
from safety_ray.classifier.training.parameters import Parameters
from safety_ray.classifier.training.rows import Row, complete, insert_needles, sentence_windows, split
from safety_ray.classifier.training.table import Table
from safety_ray.classifier.transformer import check_max_tokens, load_config
from safety_ray.core import artifact, dataset, filesystem
from safety_ray.core.artifact import Artifact
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.core.records import LABELLED

MEASURED_PAIRS = 400
"""maximum number of held-out needles to measure"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Train the harm classifier on labelled texts, or load a published one, and measure it on held-out
    texts.
    """

    labelled: str = setting(
        "dataset with id, text and label 0-5; optional columns: label_max, source, split, family",
        default="",
    )
    sources: list[str] = setting(
        f"published label sets to read from `data`: {datasets.summary()}", factory=list
    )
    measured: list[str] = setting(
        "published label sets to measure on and never train on, other than `sources`", factory=list
    )
    data: str = setting(
        "folder with the files of the published label sets (see docs/score.md)", default="data"
    )
    per_source: int = setting("maximum number of texts of a published label set; 0: all", default=0)
    output: str = setting("folder to write", identity=False)
    classifier: str = setting(
        "a sequence classifier (folder or hub id) to measure and calibrate instead of training", default=""
    )
    encoder: str = setting("the packaged encoder, or a folder or hub id", default=PACKAGED)
    trust_remote_code: bool = setting("run code that comes with the encoder or classifier", default=False)
    max_tokens: int = setting(
        "length of a chunk in tokens; 0 with `classifier`: its maximum, but at most 2048", default=256
    )
    pooling: str = setting(
        f"pooling of each layer's states: {', '.join(POOLINGS)}, or several joined by +", default="mean"
    )
    layers: int = setting("number of the encoder's last layers to pool; 0: all of them", default=0)
    per_family: int = setting(
        "maximum number of documents of one family (variants of a seed); 0: all", default=2
    )
    windows: int = setting(
        "windows of one to three sentences of each text to train on, for better scores of short texts",
        default=1,
    )
    needles: int = setting(
        "short harmful texts to insert into harmless texts for training (needle-in-haystack)", default=0
    )
    unsafe_weight: float = setting("weight of the loss on labels above 0 (the paper's lambda)", default=1.0)
    l2: float = setting("ridge penalty on the head", default=3e-5)
    parameters: Parameters = setting("training of all parameters, after that of the head", factory=Parameters)
    heldout_share: float = setting("share of rows to hold out if the dataset has no split", default=0.2)
    leave_one_out: bool = setting(
        "train again without each source, and measure on that source", default=False
    )
    seed: int = setting("seed of the split, the windows, the needles and the order of training", default=0)

    def __post_init__(self) -> None:
        if not self.labelled and not self.sources:
            raise UserError(
                "FitConfig needs labelled (a dataset) or sources (names of published label sets)."
            )
        datasets.check_names([*self.sources, *self.measured])
        if not 0 < self.heldout_share < 1:
            raise UserError(f"heldout_share={self.heldout_share} must be between 0 and 1.")
        if self.unsafe_weight <= 0 or self.l2 < 0:
            raise UserError("unsafe_weight must be positive, l2 0 or positive.")
        counts = ("windows", "per_family", "per_source", "needles", "max_tokens", "layers")
        if min(getattr(self, name) for name in counts) < 0:
            raise UserError(f"{', '.join(counts)} must be 0 or positive.")
        if not set(self.pooling.split("+")) <= set(POOLINGS):
            raise UserError(f"pooling={self.pooling}: choose from {', '.join(POOLINGS)}, joined by +.")
        if self.classifier and (self.parameters.epochs or self.leave_one_out):
            raise UserError("classifier is not trained: parameters.epochs must be 0 and leave_one_out false.")


def fit_classifier(config: FitConfig) -> dict[str, Any]:
    """Train or load a classifier, measure and calibrate it. Return the record; skip a finished folder."""
    if not artifact.is_finished(config.output):
        datasets.check_files([*config.sources, *config.measured], config.data)
        check_model(config)
    inputs = {"labelled": config.labelled} if config.labelled else {}
    inputs |= datasets.inputs([*config.sources, *config.measured], config.data)
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    rows = gather(config)
    train, heldout = split(rows, config.per_family, config.heldout_share, config.seed)
    fitting = Fitting(config, train, heldout)
    classifier, losses = fitting.fit()
    logits = fitting.table.logits(classifier, fitting.heldout)
    temperature, calibration = calibrate(logits, heldout, config.seed)
    classifier.temperature = temperature
    metrics = measure_sources(logits / temperature, heldout)
    metrics |= {
        "calibration": calibration,
        "needle_in_haystack": measure_needles(classifier, fitting.pairs),
        "losses": losses,
    }
    if config.leave_one_out:
        metrics["leave_one_out"] = fitting.leave_one_out()
    classifier.save(out.sub("classifier"), own_encoder=config.parameters.epochs > 0)
    write(out, heldout, logits / temperature, metrics)
    return out.commit(
        rows_in=len(rows), rows_out=len(train) + len(heldout), balanced=False, metrics=metrics,
        fitted_on=0 if config.classifier else len(train), measured_on=len(heldout),
    )  # fmt: skip


def check_model(config: FitConfig) -> None:
    """Raise UserError if the encoder or classifier does not exist, or does not fit the settings."""
    name = config.classifier or encoder_folder(config.encoder)
    settings = load_config(name, config.trust_remote_code)
    if config.classifier:
        check_labels(settings, name)
    if config.max_tokens or not config.classifier:
        check_max_tokens(settings, name, config.max_tokens)


def gather(config: FitConfig) -> list[Row]:
    """Return the rows of the labelled dataset and of the published label sets."""
    rows: list[Row] = []
    if config.labelled:
        dataset.check(config.labelled, LABELLED)
        rows += complete(dataset.table(config.labelled).to_pylist(), f"'{config.labelled}'")
    if config.sources:
        published = datasets.load(config.sources, config.data, config.per_source, config.seed)
        rows += complete(published, f"'{config.data}'")
    if config.measured:
        unseen = datasets.load(config.measured, config.data, config.per_source, config.seed)
        rows += complete([{**row, "split": "heldout"} for row in unseen], f"'{config.data}'")
    return rows


class Fitting:
    """All texts of a fit, split and embedded once; each classifier is trained on some of them."""

    def __init__(self, config: FitConfig, train: list[Row], heldout: list[Row]) -> None:
        self.config = config
        self.pairs = insert_needles(heldout, MEASURED_PAIRS, config.seed)
        if config.classifier:
            train, derived = [], []
        else:
            needles = [row for row, _ in insert_needles(train, config.needles, config.seed)]
            derived = [*sentence_windows(train, config.windows, config.seed), *needles]
        self.rows = [*train, *derived, *heldout]
        self.table = Table(self._model(), self.rows)
        index = torch.arange(len(self.rows))
        self.heldout = index >= len(train) + len(derived)
        self.original = self.heldout | (index < len(train))

    def _model(self) -> Encoder | SequenceClassifier:
        config, trust = self.config, self.config.trust_remote_code
        if config.classifier:
            return SequenceClassifier(config.classifier, config.max_tokens, trust_remote_code=trust)
        return self._encoder()

    def _encoder(self, exact: bool = False) -> Encoder:
        config, trust = self.config, self.config.trust_remote_code
        return Encoder(
            config.encoder,
            config.max_tokens,
            pooling=config.pooling,
            layers=config.layers,
            trust_remote_code=trust,
            exact=exact,
        )

    def fit(self, without: str = "") -> tuple[Classifier, list[float]]:
        """Train on all texts except those of the source `without`. Return the classifier and epoch losses."""
        config, table = self.config, self.table
        if isinstance(table.encoder, SequenceClassifier):
            return Classifier(table.encoder), []
        sources = [{row["source"], *row.get("around", [])} for row in self.rows]
        train = torch.tensor([without not in names for names in sources]) & ~self.heldout
        chunks, owner = table.chunks_of(train)
        head = fit_chunks(
            table.embedded[chunks], owner, table.low, table.high,
            unsafe_weight=config.unsafe_weight, l2=config.l2,
        )  # fmt: skip
        if not config.parameters.epochs:
            return Classifier(table.encoder, head), []
        encoder = self._encoder(exact=True)  # a new one, because the table's must not change
        indices = train.nonzero().flatten().tolist()
        head, losses = parameters.train(
            encoder, head, [table.chunks[i] for i in indices], table.low[train], table.high[train],
            config.parameters, unsafe_weight=config.unsafe_weight, seed=config.seed,
        )  # fmt: skip
        return Classifier(encoder, head), losses

    def unseen(self, source: str) -> tuple[torch.Tensor, list[Row]]:
        """Train without a source. Return the (n, 6) logits of all its texts, and the texts."""
        rows = self.original & torch.tensor([row["source"] == source for row in self.rows])
        classifier, _ = self.fit(without=source)
        return self.table.logits(classifier, rows), [self.rows[i] for i in rows.nonzero().flatten().tolist()]

    def leave_one_out(self) -> dict[str, Any]:
        """Return the metrics of each source, for a classifier trained without that source."""
        metrics: dict[str, Any] = {}
        names = sorted({row["source"] for row in self.rows})
        if len(names) < 2:
            raise UserError(f"leave_one_out needs at least two sources; there is only '{names[0]}'.")
        if not self.config.classifier:  # a source can only be left out if another one is trained on
            pairs = zip(self.rows, self.heldout.tolist(), strict=True)
            trained = {row["source"] for row, heldout in pairs if not heldout}
            names = [name for name in names if trained - {name}]
        line = Line("left out", len(names), "sources", first=0, saved=False)
        for done, name in enumerate(names, start=1):
            metrics[name] = measure_rows(*self.unseen(name))
            line.show(done, name, final=done == len(names))
        aurocs = [values["auroc"] for values in metrics.values() if values["auroc"] is not None]
        return {**metrics, "mean_auroc": round(sum(aurocs) / len(aurocs), 4) if aurocs else None}


def write(out: Artifact, heldout: list[Row], logits: torch.Tensor, metrics: dict[str, Any]) -> None:
    """Write the scores of the held-out texts, and the metrics as JSON, README.md and plot."""
    report = pa.table(
        {
            **{name: [row[name] for row in heldout] for name in ("id", "source", "label", "label_max")},
            "score": logits.argmax(-1).tolist(),
            "probs": logits.softmax(-1).tolist(),
        }
    )
    dataset.write_table(report, out.sub("data", "heldout.parquet"))
    fs, root = filesystem.find(out.path)
    fs.pipe_file(f"{root}/metrics.json", json.dumps(metrics, indent=1).encode())
    fs.pipe_file(f"{root}/README.md", page.page(metrics).encode())
    fs.pipe_file(f"{root}/fit.png", figure.plot(metrics))


if __name__ == "__main__":
    from jobs.cli import main

    main("fit")
