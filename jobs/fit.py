"""labelled texts → classifier: a head on an encoder, all parameters if wanted; measured, calibrated."""

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
from safety_ray.classifier.training.measures import calibrate, measure_buried, measure_rows, measure_sources
from safety_ray.classifier.training.parameters import Parameters
from safety_ray.classifier.training.rows import Row, bury, complete, split, windows
from safety_ray.classifier.training.table import Table
from safety_ray.classifier.transformer import check_max_tokens, load_config
from safety_ray.core import artifact, dataset, filesystem
from safety_ray.core.artifact import Artifact
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.core.records import LABELLED, require

MEASURED_PAIRS = 400
"""held-out harmful texts that are looked for amid calm ones"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Fits the harm classifier on labelled texts, or takes a published one, and measures it on others."""

    labelled: str = setting(
        "dataset with id, text and label 0-5; `label_max`, `source`, `split` and `family` if it has them",
        default="",
    )
    sources: list[str] = setting(
        f"published label sets to read from `data`: {datasets.summary()}", factory=list
    )
    data: str = setting(
        "folder with the files of the published label sets (see docs/score.md)", default="data"
    )
    per_source: int = setting("maximum number of texts of a published label set; 0: all", default=0)
    output: str = setting("folder to write", identity=False)
    classifier: str = setting(
        "a sequence classifier (folder or hub id) to measure and calibrate in place of a fit", default=""
    )
    encoder: str = setting("the packaged encoder, or a folder or hub id", default=PACKAGED)
    trust_remote_code: bool = setting("run code that comes with the encoder or classifier", default=False)
    max_tokens: int = setting(
        "length of a chunk; 0 with `classifier`: what it takes, 2048 at most", default=256
    )
    pooling: str = setting(f"a chunk's vector in every layer: {', '.join(POOLINGS)}", default="mean")
    layers: int = setting("the encoder's last so many layers; 0: all of them", default=0)
    per_family: int = setting("documents of one family (a seed's variants) to fit on; 0: all", default=2)
    windows: int = setting(
        "pieces of one to three sentences cut from each text, so that short texts are scored well too",
        default=1,
    )
    buried: int = setting(
        "short harmful texts to fit on amid calm ones, so that they are seen there", default=0
    )
    unsafe_weight: float = setting("weight of the loss on labels above 0 (the paper's lambda)", default=1.0)
    l2: float = setting("ridge penalty on the head", default=3e-5)
    parameters: Parameters = setting("training of all parameters, after the head's", factory=Parameters)
    heldout_share: float = setting("share held out by id where the dataset has no split", default=0.2)
    leave_one_out: bool = setting("fit once more without each source, and measure on it", default=False)
    seed: int = setting("seed of the split, the pieces and the order of training", default=0)

    def __post_init__(self) -> None:
        if not self.labelled and not self.sources:
            raise UserError("FitConfig needs labelled, a dataset, or sources, names of published sets.")
        datasets.check_names(self.sources)
        if not 0 < self.heldout_share < 1:
            raise UserError(f"heldout_share={self.heldout_share} must lie between 0 and 1.")
        if self.unsafe_weight <= 0 or self.l2 < 0:
            raise UserError("unsafe_weight must be positive, l2 not negative.")
        counts = ("windows", "per_family", "per_source", "buried", "max_tokens", "layers")
        if min(getattr(self, name) for name in counts) < 0:
            raise UserError(f"{', '.join(counts)} must not be negative.")
        if not set(self.pooling.split("+")) <= set(POOLINGS):
            raise UserError(f"pooling={self.pooling} must be of {', '.join(POOLINGS)}, joined by +.")
        if self.classifier and (self.parameters.epochs or self.leave_one_out):
            raise UserError(
                "classifier is measured as it is: parameters.epochs and leave_one_out must be off."
            )


def fit_classifier(config: FitConfig) -> dict[str, Any]:
    """Train or load a classifier, measure and calibrate it. Return the record; skip a finished folder."""
    if not artifact.is_finished(config.output):
        datasets.check_files(config.sources, config.data)
        check_model(config)
    inputs = {"labelled": config.labelled} if config.labelled else {}
    inputs |= {"data": config.data} if config.sources else {}
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
        "buried": measure_buried(classifier, fitting.pairs),
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
    """The labelled dataset's rows and those of the published sets."""
    rows: list[Row] = []
    if config.labelled:
        table = dataset.table(config.labelled)
        require(LABELLED, table.column_names, f"'{config.labelled}'")
        rows += complete(table.to_pylist(), f"'{config.labelled}'")
    if config.sources:
        found = datasets.load(config.sources, config.data, config.per_source, config.seed)
        rows += complete(found, f"'{config.data}'")
    return rows


class Fitting:
    """All texts of a fit, cut and embedded once: a frozen encoder serves every fit on a part of them."""

    def __init__(self, config: FitConfig, train: list[Row], heldout: list[Row]) -> None:
        self.config = config
        self.pairs = bury(heldout, MEASURED_PAIRS, config.seed)
        if config.classifier:
            train, pieces = [], []
        else:
            mixtures = [mixture for mixture, _ in bury(train, config.buried, config.seed)]
            pieces = [*windows(train, config.windows, config.seed), *mixtures]
        self.rows = [*train, *pieces, *heldout]
        self.table = Table(self._model(), self.rows)
        place = torch.arange(len(self.rows))
        self.heldout = place >= len(train) + len(pieces)
        self.whole = self.heldout | (place < len(train))

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
        """A classifier fitted on all texts but those of the source `without`, and each epoch's loss."""
        config, table = self.config, self.table
        if isinstance(table.encoder, SequenceClassifier):
            return Classifier(table.encoder), []
        names = [{row["source"], *row.get("around", [])} for row in self.rows]
        chosen = torch.tensor([without not in some for some in names]) & ~self.heldout
        chunks, owner = table.of(chosen)
        head = fit_chunks(
            table.embedded[chunks], owner, table.low, table.high,
            unsafe_weight=config.unsafe_weight, l2=config.l2,
        )  # fmt: skip
        if not config.parameters.epochs:
            return Classifier(table.encoder, head), []
        encoder = self._encoder(exact=True)  # one of its own: the table's stays as it was
        places = chosen.nonzero().flatten().tolist()
        head, losses = parameters.train(
            encoder, head, [table.chunks[i] for i in places], table.low[chosen], table.high[chosen],
            config.parameters, unsafe_weight=config.unsafe_weight, seed=config.seed,
        )  # fmt: skip
        return Classifier(encoder, head), losses

    def leave_one_out(self) -> dict[str, Any]:
        """The figures of each source's texts under a classifier that never saw that source."""
        found: dict[str, Any] = {}
        names = sorted({row["source"] for row in self.rows})
        if len(names) < 2:
            raise UserError(f"leave_one_out needs two sources or more; there is only '{names[0]}'.")
        line = Line("left out", len(names), "sources")
        for done, name in enumerate(names, start=1):
            rows = self.whole & torch.tensor([row["source"] == name for row in self.rows])
            classifier, _ = self.fit(without=name)
            texts = [self.rows[i] for i in rows.nonzero().flatten().tolist()]
            found[name] = measure_rows(self.table.logits(classifier, rows), texts)
            line.show(done, name, final=done == len(names))
        known = [one["auroc"] for one in found.values() if one["auroc"] is not None]
        return {**found, "mean_auroc": round(sum(known) / len(known), 4) if known else None}


def write(out: Artifact, heldout: list[Row], logits: torch.Tensor, metrics: dict[str, Any]) -> None:
    """The held-out texts' scores, and the figures as JSON, page and picture."""
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
    fs.pipe_file(f"{root}/fit.png", figure.draw(metrics))


if __name__ == "__main__":
    from jobs.cli import main

    main("fit")
