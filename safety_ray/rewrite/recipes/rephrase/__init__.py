"""Rephrase: retell a mildly unsafe document so that the harm is explained (SafeWeb)."""

from importlib import resources

from safety_ray.llm.prompts import read_prompt
from safety_ray.rewrite.recipes.recipe import PublishedSet, Recipe, read_styles
from safety_ray.rewrite.recipes.rephrase.parser import parse_rephrased
from safety_ray.rewrite.template_engine.writers import write_rephrased

_FOLDER = resources.files(__name__)

REPHRASE = Recipe(
    name="rephrase",
    scores=(1, 2, 3),
    prompt=read_prompt(_FOLDER),
    short_prompt=read_prompt(_FOLDER, "short_prompt.txt"),
    styles=read_styles(_FOLDER),
    parse=parse_rephrased,
    chunks_documents=True,
    keeps_content=True,
    template=write_rephrased,
    published=PublishedSet("safeweb", "rephrased", "Web documents rephrased so that the harm is explained"),
)
