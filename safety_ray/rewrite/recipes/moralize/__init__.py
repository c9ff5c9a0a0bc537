"""Moralize: retell an accepted refusal as an educational web page (Moral Education)."""

from importlib import resources

from safety_ray.llm.prompts import read_prompt
from safety_ray.rewrite.recipes.moralize.parser import parse_page
from safety_ray.rewrite.recipes.recipe import PublishedSet, Recipe, read_styles
from safety_ray.rewrite.recipes.refuse import REFUSE
from safety_ray.rewrite.template_engine.writers import write_page

_FOLDER = resources.files(__name__)

MORALIZE = Recipe(
    name="moralize",
    reads=REFUSE.name,
    prompt=read_prompt(_FOLDER),
    styles=read_styles(_FOLDER),
    parse=parse_page,
    uses_harm_type=True,
    template=write_page,
    published=PublishedSet("moral_education", "morals", "Refusals retold as pages of moral education"),
)
