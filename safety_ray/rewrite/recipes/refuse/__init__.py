"""Refuse: a dialogue in which the document's type of harm is requested and refused (RefuseWeb)."""

from importlib import resources

from safety_ray.llm.prompts import read_prompt
from safety_ray.rewrite.recipes.recipe import PublishedSet, Recipe, read_styles
from safety_ray.rewrite.recipes.refuse.parser import parse_refusal
from safety_ray.rewrite.template_engine.writers import write_refusal

_FOLDER = resources.files(__name__)

REFUSE = Recipe(
    name="refuse",
    scores=(4, 5),
    prompt=read_prompt(_FOLDER),
    styles=read_styles(_FOLDER),  # the tone of the request; the answer is always calm
    parse=parse_refusal,
    uses_harm_type=True,
    template=write_refusal,
    published=PublishedSet("refuseweb", "refusal", "Dialogues in which harmful requests are refused"),
)
