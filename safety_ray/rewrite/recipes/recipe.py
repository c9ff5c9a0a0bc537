"""The declaration of a recipe: one way to rewrite a text (paper, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from safety_ray.core.records import stable_hash
from safety_ray.llm import prompts
from safety_ray.llm.prompts import Prompt


class PublishedSet(NamedTuple):
    """The dataset of the paper that has the texts of a recipe."""

    name: str
    suffix: str
    """last word of its configs' names: score_<score>_<suffix>"""
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One way to rewrite a text: what it reads, the prompt, the form of a reply and what is checked."""

    name: str
    prompt: Prompt
    styles: Mapping[str, str]
    """name and description of each style; the description replaces `$style` in the prompt"""
    parse: Callable[[str], str]
    """Return the text of a reply. Raises ValueError if the reply does not have the recipe's form."""
    short_prompt: Prompt | None = None
    """a prompt without styles that a small model can follow"""
    scores: tuple[int, ...] = ()
    """default scores of the documents it rewrites; empty if it rewrites texts of another recipe"""
    reads: str | None = None
    """the recipe whose accepted texts it rewrites; None: it rewrites web documents"""
    chunks_documents: bool = False
    """rewrite long documents chunk by chunk; otherwise only the most harmful chunk is in the prompt"""
    keeps_content: bool = False
    """check the text's similarity to its source, and that it keeps numbers and names"""
    uses_harm_type: bool = False
    """the type of harm replaces `$harm` in the prompt and is stored in the column `harm`"""
    template: Callable[[dict[str, Any], int], str] | None = None
    """Write the reply to a task without a language model, from the task's row and a seed."""
    published: PublishedSet | None = None
    default: bool = True
    """run it by default; otherwise only if the setting `recipes` names it"""

    def __post_init__(self) -> None:
        for file, prompt in (("prompt.txt", self.prompt), ("short_prompt.txt", self.short_prompt)):
            if prompt is not None:
                self._check(file, prompt)

    def _check(self, file: str, prompt: Prompt) -> None:
        names = {*prompt.system.get_identifiers(), *prompt.user.get_identifiers()}
        known = {"key", "document", "style", *(("harm",) if self.uses_harm_type else ())}
        if names - known or not {"key", "document"} <= names:
            raise ValueError(
                f"recipe '{self.name}': {file} has the placeholders {', '.join(sorted(names))}; "
                f"it needs key and document, and may have {', '.join(sorted(known - {'key', 'document'}))}"
            )

    @property
    def short(self) -> Recipe:
        """The recipe with its short prompt and the style `short`; itself, if it has none."""
        if self.short_prompt is None:
            return self
        return replace(self, prompt=self.short_prompt, styles={"short": ""})

    def choose_style(self, seed: int, id: str, attempt: int = 1, exclude: str | None = None) -> str:
        """Choose the style of the row `id`. A later attempt excludes the style of the attempt before.

        The choice is the style with the highest hash (rendezvous hashing), so that it does not depend on the
        order of the styles, and a new style changes only the rows that it is chosen for.
        """
        candidates = [style for style in self.styles if style != exclude] or list(self.styles)
        purpose = f"style {self.name} {attempt}"
        return max(candidates, key=lambda style: stable_hash(seed, id, purpose, style))


def read_styles(folder: Traversable) -> dict[str, str]:
    """Read the styles of a recipe: one file `styles/<style>.txt` each, in the order of their names."""
    files = sorted(file.name for file in (folder / "styles").iterdir() if file.name.endswith(".txt"))
    if not files:
        raise ValueError(f"{folder / 'styles'} has no style; a recipe needs at least one file <style>.txt")
    return {name.removesuffix(".txt"): prompts.read_text(folder / "styles", name) for name in files}
