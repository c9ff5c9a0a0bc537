"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from safety_ray.classifier import packaged
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.evaluate import ability, decoders, judges, prompt_sets
from safety_ray.evaluate.decoders import DECODERS
from safety_ray.evaluate.endpoint import EndpointConfig
from safety_ray.evaluate.judges import JUDGES
from safety_ray.evaluate.prompt_sets import DOCUMENTS, TEXTS
from safety_ray.evaluate.settings import Decoding, MeasurementConfig
from safety_ray.judge.settings import Judge, check_is_model


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(MeasurementConfig):
    """Measure any model: harmful answers and refusals, P(tag) if it has the tag, perplexity."""

    model: str = setting(
        "Hugging Face folder or hub id, or output folder of pretrain or finetune", default=""
    )
    endpoint: EndpointConfig = setting("a model behind an endpoint, instead of model", factory=EndpointConfig)
    answers: str = setting(
        "instead of model: output folder of an earlier evaluation, or a results.jsonl, to judge its answers "
        "again",
        default="",
    )
    compare_to: str = setting(
        "output folder of an evaluation of another model, or a results.jsonl: its answers to the same "
        "prompts are judged too, and compared prompt by prompt",
        default="",
    )
    output: str = setting("folder to write", identity=False)
    prompt_sets: list[str] = setting(
        f"{DOCUMENTS} (beginnings of documents), files of your own (.csv, .jsonl or .parquet with a column "
        "'prompt', also as a URL such as hf://datasets/ID/FILE) "
        f"or published sets below data: {prompt_sets.summary()}; empty: {DOCUMENTS}",
        factory=list,
    )
    prompt_columns: dict[str, str] = setting(
        "names of the columns in files of your own where they differ, such as {prompt: goal, kind: type}",
        factory=dict,
    )
    data: str = setting("folder with the files of the published sets", default="", identity=False)
    documents: list[str] = setting(
        "datasets that the model was not trained on, with id, text and label or score; of duplicate ids the "
        "first row is used",
        factory=list,
    )
    max_prompts: int = setting("maximum prompts of each set and kind; 0: all", default=40)
    skip_prompts: int = setting(
        "leave out the prompts of each set and kind that max_prompts with this value and the same seed "
        "selects, and others of their groups: for example those by which settings were chosen",
        default=0,
    )
    chat: bool = setting(
        "answer prompts in the tokenizer's chat template, except beginnings of texts "
        f"({', '.join(sorted(TEXTS))})",
        default=False,
    )
    decoders: list[str] = setting(
        f"decoders to compare: {', '.join(DECODERS)}; empty: beam, and safebeam if the model has the tag; "
        "greedy for an endpoint",
        factory=list,
    )
    temperature: float = setting("temperature of the decoder sample", default=1.0)
    top_k: int = setting("most likely tokens that the decoder sample considers", default=50)
    top_p: float = setting("nucleus sampling of the decoder sample: cumulative probability", default=1.0)
    samples: int = setting("answers to each prompt by decoders that sample", default=1)
    stop_threshold: float = setting("P(tag) at which the decoder stop ends the answer", default=0.03)
    judges: list[str] = setting(
        f"judges to use: {', '.join(JUDGES)}; the first one is plotted",
        factory=lambda: ["harm_classifier", "refusal"],
    )
    classifier: str = setting(
        f"the classifier of the judge harm_classifier; {packaged.SETTING}", default=packaged.DEFAULT
    )
    trust_remote_code: bool = setting(packaged.TRUST, default=False, identity=False)
    lm: Judge = setting("the language model of the judges whose names end in _lm", factory=Judge)
    category: str = setting(
        "column with the kind of a document's harm, for P(tag) by category", default="category"
    )
    tag_rate: float = setting(
        "share of the words of unsafe text that had a tag in training, for calibration; 0: the tag_rate of "
        "the token rows of the model, or 0.05 if its training is not on record",
        default=0.0,
    )
    stop_false_alarms: float = setting(
        "share of safe documents that a threshold for the mode stop may stop", default=0.05
    )
    lm_tasks: list[str] = setting(
        "tasks of lm-evaluation-harness, by name or task file (.yaml); needs the package lm-eval",
        factory=list,
    )
    lm_limit: int = setting("maximum documents of each of lm_tasks; 0: all", default=0)
    tag: str = setting(
        "the harmfulness tag; empty: the one stored with the model's tokenizer, else <|harmful|> if the "
        "tokenizer has it",
        default="",
    )
    seed: int = setting("seed of the samples, the decoder sample and the intervals", default=0)
    resamples: int = setting("resamples for the intervals", default=10_000)
    workers: int = setting(
        "actors with a copy of the model each; limited by the cluster's CPUs and GPUs",
        default=2,
        identity=False,
    )
    autoscale: bool = setting(
        "the cluster autoscales: start all `workers`, which wait for nodes if they do not fit yet",
        default=False,
        identity=False,
    )
    cpus_per_worker: int = setting("CPUs and threads per actor", default=1, identity=False)
    gpus_per_worker: float = setting("GPUs per actor; 0: runs on the CPU", default=0.0, identity=False)
    prompts_at_once: int = setting("prompts per batch of a decoder", default=4)

    def __post_init__(self) -> None:
        self.check()
        self.endpoint.check()
        if sum(map(bool, (self.model, self.endpoint.url, self.answers))) != 1:
            raise UserError(
                "model: give a model, or endpoint.url, or answers of an earlier evaluation to judge again; "
                "one of them."
            )
        if self.answers and (self.documents or self.prompt_sets):
            raise UserError("answers: cannot be combined with documents or prompt_sets; leave them empty.")
        prompt_sets.check_names(self.prompt_sets)
        prompt_sets.check_columns(self.prompt_columns)
        if DOCUMENTS in self.prompt_sets and not self.documents:
            raise UserError(
                f"documents is empty, but prompt_sets has {DOCUMENTS}; give at least one dataset."
            )
        if self.endpoint.url and self.documents and self.prompt_sets and DOCUMENTS not in self.prompt_sets:
            raise UserError(
                "documents: an endpoint is not asked for P(tag) and perplexity of documents; add "
                f"{DOCUMENTS} to prompt_sets, or leave documents empty."
            )
        if not self.answers and not self.documents and not self.prompt_sets and not self.lm_tasks:
            raise UserError("documents is empty, and so is prompt_sets; give at least one of them.")
        if self.lm_tasks and not self.model:
            raise UserError(
                "lm_tasks: needs model; for an endpoint see docs/how-to/run-evaluation-harnesses.md."
            )
        if len({ability.title(task) for task in self.lm_tasks}) < len(self.lm_tasks) or self.lm_limit < 0:
            raise UserError("lm_tasks must have each task once, and lm_limit must be at least 0.")
        decoders.check_names(self.decoders)
        for name in self.judges:
            judges.find(name)
        if not self.judges or len(set(self.judges)) < len(self.judges):
            raise UserError(f"judges={self.judges} must have at least one judge, and each once.")
        if self.needs("lm"):
            check_is_model(self.lm, "lm")
        for name in ("samples", "resamples", "workers", "cpus_per_worker", "prompts_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("max_prompts", "skip_prompts"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0.")
        if self.gpus_per_worker < 0:
            raise UserError(f"gpus_per_worker={self.gpus_per_worker} must be at least 0.")
        if not 0 <= self.tag_rate < 1:
            raise UserError(f"tag_rate={self.tag_rate} must be at least 0 and less than 1.")
        if not 0 < self.stop_false_alarms < 1:
            raise UserError(f"stop_false_alarms={self.stop_false_alarms} must be between 0 and 1.")
        if not 0 < self.stop_threshold <= 1:
            raise UserError(f"stop_threshold={self.stop_threshold} must be above 0 and at most 1.")
        for decoder in DECODERS.values():  # raises for values out of range
            decoder.make_search(self.decoding(-1, frozenset()), 0)

    def needs(self, what: str) -> bool:
        """Return whether one of the judges needs a `classifier` or an `lm`."""
        return any(JUDGES[name].needs == what for name in self.judges)

    def decoding(self, tag_id: int | None, eos_ids: frozenset[int]) -> Decoding:
        """Return the settings of the decoders."""
        return replace(
            MeasurementConfig.decoding(self, tag_id, eos_ids),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop_threshold=self.stop_threshold,
        )
