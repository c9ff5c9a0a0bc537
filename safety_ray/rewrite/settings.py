"""The settings of rewriting, and the recipe of each score."""

from __future__ import annotations

from dataclasses import dataclass, replace

from safety_ray.classifier import packaged
from safety_ray.classifier.pool import Pool
from safety_ray.core import partition
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES
from safety_ray.judge.settings import DocumentJudge
from safety_ray.llm.engine import EngineConfig
from safety_ray.rewrite.acceptance import Bounds
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.tasks import TaskOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class RewriteConfig(Pool):
    """Rewrite scored documents: rephrase mildly unsafe ones, turn the worst into refusals and lessons."""

    scored: str = setting("dataset with id, text and score")
    classifier: str = setting(
        f"the classifier that scores every rewritten text; {packaged.SETTING}", default=packaged.DEFAULT
    )
    output: str = setting("folder to write", identity=False)
    engine: EngineConfig = setting("the engine that writes the texts", factory=EngineConfig)
    engine_share: float = setting(
        "share of the documents that the engine rewrites, chosen by hash; the template rewrites the others",
        default=1.0,
    )
    engine_recipes: list[str] = setting(
        "recipes that the engine writes, and the template the others; empty: all", factory=list
    )
    short_prompts: bool = setting(
        "use a recipe's short prompt, if it has one: for models below about 10^9 parameters, which cannot "
        "follow the full one",
        default=False,
    )
    recipes: list[str] = setting(
        f"recipes to run: {', '.join(RECIPES)}",
        factory=lambda: [name for name, recipe in RECIPES.items() if recipe.default],
    )
    rephrase_scores: list[int] = setting(
        "scores of documents to rephrase", factory=lambda: list(RECIPES["rephrase"].scores)
    )
    refuse_scores: list[int] = setting(
        "scores of documents to turn into refusals", factory=lambda: list(RECIPES["refuse"].scores)
    )
    thresholds_from: str = setting(
        "folder of a finished audit: documents with scores below its threshold are not rewritten", default=""
    )
    max_chars: int = setting(
        "maximum characters of a source in one prompt, about four per token: longer documents are rephrased "
        "chunk by chunk, and a refusal is made from the most harmful chunk",
        default=12_000,
    )
    attempts: int = setting(
        "maximum attempts for a document, each with another seed and, if there is one, another style",
        default=2,
    )
    accept: Bounds = setting("limits that a text must meet to be accepted", factory=Bounds)
    judge: DocumentJudge = setting(
        "a language model that scores the texts too; the higher score counts; kind none: no judge",
        factory=DocumentJudge,
    )
    write_rows: int = setting(
        "rows in a write task: the maximum that a failure repeats; 0: 256, or more for over 10^7 tasks",
        default=0,
        identity=False,
    )
    max_rejected: float = setting(
        "share of rejected tasks above which the job fails", default=0.5, identity=False
    )
    seed: int = setting("seed of styles and phrases", default=0)
    partition: str = setting(partition.SETTING, default="")
    dry_run: bool = setting(
        "rewrite only a sample, and estimate tokens, hours and price of the full run",
        default=False,
        identity=False,
    )
    dry_run_rows: int = setting("documents in the sample of a dry run", default=64, identity=False)
    price_per_hour: float = setting(
        "price of one engine's machine per hour, in any currency: a dry run then estimates the total",
        default=0.0,
        identity=False,
    )

    def __post_init__(self) -> None:
        Pool.__post_init__(self)
        partition.check(self.partition)
        if self.engine.kind == "none":
            raise UserError(
                "engine.kind: name what writes the texts: vllm, openai, or template, which replaces a text "
                "by a general paragraph."
            )
        if not self.recipes:
            raise UserError(f"recipes is empty; choose from {', '.join(RECIPES)}.")
        for name in self.recipes:
            if name not in RECIPES:
                raise UserError(f"recipes: unknown recipe '{name}'; choose from {', '.join(RECIPES)}.")
            reads = RECIPES[name].reads
            if reads and reads not in self.recipes:
                raise UserError(f"recipes: {name} needs {reads}, whose texts it rewrites; add {reads}.")
            by_template = self.engine.kind == "template" or self.engine_share < 1
            if (by_template or name not in self.by_engine) and RECIPES[name].template is None:
                raise UserError(
                    f"the template cannot write {name}; set engine.kind to vllm or openai, engine_share to "
                    f"1, and add {name} to engine_recipes."
                )
        for name in self.engine_recipes:
            if name not in RECIPES:
                raise UserError(f"engine_recipes: unknown recipe '{name}'; choose from {', '.join(RECIPES)}.")
        if not set(self.by_engine) & set(self.recipes):
            raise UserError(
                "engine_recipes has none of the recipes to run; name one, or set engine.kind=template."
            )
        if self.engine.kind == "template" and (self.engine_recipes or self.short_prompts):
            raise UserError(
                "engine_recipes and short_prompts need a language model; set engine.kind to vllm or openai."
            )
        if not 0 < self.engine_share <= 1 or (self.engine_share < 1 and self.engine.kind == "template"):
            raise UserError(
                f"engine_share={self.engine_share} must be above 0 and at most 1, and 1 for "
                "engine.kind=template."
            )
        self._check_scores()
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"max_rejected={self.max_rejected} must be from 0 to 1.")
        if not 1 <= self.attempts <= 5:
            raise UserError(f"attempts={self.attempts} must be an integer from 1 to 5.")
        if self.max_chars < 200:
            raise UserError(f"max_chars={self.max_chars} is too small; it must be at least 200.")
        if self.dry_run_rows < 2 or self.price_per_hour < 0:
            raise UserError("dry_run_rows must be at least 2, and price_per_hour must not be negative.")

    def _check_scores(self) -> None:
        recipe_of: dict[int, str] = {}
        for name in (name for name, recipe in RECIPES.items() if recipe.reads is None):
            for score in self.scores_of(name):
                if not 1 <= score < SCORES:
                    raise UserError(
                        f"{name}_scores={self.scores_of(name)}: a score must be from 1 to {SCORES - 1}, "
                        "so that rewriting can lower it."
                    )
                if name not in self.recipes:
                    continue
                if recipe_of.setdefault(score, name) != name:
                    raise UserError(f"score {score} is in {recipe_of[score]}_scores and in {name}_scores.")

    @property
    def document_recipes(self) -> list[str]:
        """The selected recipes that rewrite documents, in the registry's order."""
        return [name for name in RECIPES if name in self.recipes and RECIPES[name].reads is None]

    @property
    def derived_recipes(self) -> list[str]:
        """The selected recipes that rewrite texts of another recipe, in the registry's order."""
        return [name for name in RECIPES if name in self.recipes and RECIPES[name].reads is not None]

    def scores_of(self, recipe: str) -> list[int]:
        """Return the scores of the documents for a recipe: its setting `<recipe>_scores`, or its default."""
        return list(getattr(self, f"{recipe}_scores", RECIPES[recipe].scores))

    def recipe_of(self, threshold: int = 1) -> dict[int, str]:
        """Return the recipe of each score that is at least `threshold` and has a recipe."""
        return {
            score: name
            for name in self.document_recipes
            for score in self.scores_of(name)
            if score >= threshold
        }

    @property
    def by_template(self) -> RewriteConfig:
        """The settings of the documents that the template rewrites."""
        template = EngineConfig(kind="template")
        return replace(self, engine=template, engine_share=1.0, engine_recipes=[], short_prompts=False)

    @property
    def by_engine(self) -> list[str]:
        """The recipes that the engine writes."""
        return self.engine_recipes or list(RECIPES)

    @property
    def writers(self) -> dict[bool, RewriteConfig]:
        """The settings of the engine's tasks (False) and, if it does not write all, the template's (True)."""
        if self.engine.kind == "template" or (
            self.engine_share == 1 and set(self.recipes) <= set(self.by_engine)
        ):
            return {False: self}
        return {False: self, True: self.by_template}

    def writes(self, recipe: str, template: bool) -> float:
        """Return the share of the tasks of `recipe` that the engine or the template writes."""
        share = self.engine_share if recipe in self.by_engine else 0.0
        return 1 - share if template else share

    def task_options(self, attempt: int = 1) -> TaskOptions:
        """Return the options of the tasks of an attempt."""
        return TaskOptions(self.seed, self.engine.label, self.max_chars, attempt, self.short_prompts)

    def engine_of(self, attempt: int) -> EngineConfig:
        """Return the engine of an attempt: each attempt samples with another seed."""
        return replace(self.engine, seed=self.engine.seed + attempt - 1)
