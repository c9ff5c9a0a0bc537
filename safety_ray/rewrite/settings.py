"""The settings of rewriting, and which score gets which recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from safety_ray.classifier.pool import Pool
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES
from safety_ray.judge.settings import Judge
from safety_ray.llm.engine import EngineConfig
from safety_ray.rewrite.acceptance import Bounds
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.tasks import Draw


@dataclass(frozen=True, kw_only=True, slots=True)
class RewriteConfig(Pool):
    """Rewrites scored documents: mild ones are rephrased, harmful ones refused and moralized."""

    scored: str = setting("dataset with id, text and score")
    classifier: str = setting(
        "folder of a finished fit, or hub id of a published classifier: it scores every rewritten text"
    )
    output: str = setting("folder to write", identity=False)
    engine: EngineConfig = setting("what writes the texts", factory=EngineConfig)
    recipes: list[str] = setting("which of the recipes to run", factory=lambda: list(RECIPES))
    rephrase_scores: list[int] = setting("scores that are rephrased", factory=lambda: [1, 2, 3])
    refuse_scores: list[int] = setting("scores that are refused, then moralized", factory=lambda: [4, 5])
    thresholds_from: str = setting(
        "a finished audit: documents with scores below its threshold are left as they are", default=""
    )
    max_chars: int = setting(
        "characters of a source in one prompt at most, about four a token: longer documents are rephrased in "
        "parts, cut at paragraphs, and a refusal is made of the worst part",
        default=12_000,
    )
    attempts: int = setting("times that a document is asked about, each in another style", default=2)
    accept: Bounds = setting("what a text must hold to be kept", factory=Bounds)
    judge: Judge = setting(
        "a language model that scores the texts as well; the higher score counts; template: none",
        factory=Judge,
    )
    max_rejected: float = setting(
        "share of tasks rejected above which the job fails", default=0.5, identity=False
    )
    seed: int = setting("seed of styles and phrases", default=0)
    dry_run: bool = setting(
        "rewrite a sample only, and say what all of it would take", default=False, identity=False
    )
    dry_run_rows: int = setting("documents in that sample", default=64, identity=False)
    price_per_hour: float = setting(
        "of one engine's machine, in any currency: a dry run then says what all of it costs",
        default=0.0,
        identity=False,
    )

    def __post_init__(self) -> None:
        Pool.__post_init__(self)
        for name in self.recipes:
            if name not in RECIPES:
                raise UserError(f"recipes: '{name}' is none of {', '.join(RECIPES)}.")
        if "moralize" in self.recipes and "refuse" not in self.recipes:
            raise UserError("recipes: moralize retells refusals, so it needs refuse beside it.")
        if not self.recipes:
            raise UserError(f"recipes is empty; choose from {', '.join(RECIPES)}.")
        for key, scores in (("rephrase_scores", self.rephrase_scores), ("refuse_scores", self.refuse_scores)):
            if any(not 1 <= s < SCORES for s in scores):
                raise UserError(
                    f"{key}={scores}: a score that can be lowered lies between 1 and {SCORES - 1}."
                )
        both = sorted(set(self.rephrase_scores) & set(self.refuse_scores))
        if both:
            raise UserError(f"score {both[0]} stands in rephrase_scores and in refuse_scores; choose one.")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"max_rejected={self.max_rejected} must lie in [0, 1].")
        if not 1 <= self.attempts <= 5:
            raise UserError(f"attempts={self.attempts} must be an integer from 1 to 5.")
        if self.max_chars < 200:
            raise UserError(f"max_chars={self.max_chars} leaves no room for a paragraph; give at least 200.")
        if self.dry_run_rows < 2 or self.price_per_hour < 0:
            raise UserError("dry_run_rows must be at least 2, and price_per_hour not negative.")

    def recipe_of(self, threshold: int = 1) -> dict[int, str]:
        """The recipe of each score that has one; scores below `threshold` have none."""
        bands = {"rephrase": self.rephrase_scores, "refuse": self.refuse_scores}
        found = {s: name for name, scores in bands.items() if name in self.recipes for s in scores}
        return {score: name for score, name in found.items() if score >= threshold}

    def draws(self, attempt: int = 1) -> Draw:
        return Draw(self.seed, self.engine.label, self.max_chars, attempt)

    def engine_of(self, attempt: int) -> EngineConfig:
        """The engine of an attempt: each samples with another seed."""
        return replace(self.engine, seed=self.engine.seed + attempt - 1)
