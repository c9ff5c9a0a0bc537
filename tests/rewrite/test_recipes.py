"""The registry of recipes: folders, styles that are found by their files, and what every part reads."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from documents import STYLES

from safety_ray.core import records
from safety_ray.llm.engine import EngineConfig
from safety_ray.llm.prompts import read_prompt
from safety_ray.rewrite.published import SETS
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.recipes.recipe import read_styles
from safety_ray.rewrite.settings import RewriteConfig

FOLDER = resources.files("safety_ray.rewrite.recipes")


def test_registry_has_every_recipe_folder_in_order_of_records() -> None:
    folders = {file.name for file in FOLDER.iterdir() if (file / "prompt.txt").is_file()}
    assert folders == set(RECIPES)
    assert tuple(RECIPES) == records.RECIPES
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    for recipe in RECIPES.values():
        before = list(RECIPES)[: list(RECIPES).index(recipe.name)]
        assert (recipe.reads is None) == bool(recipe.scores)
        assert recipe.reads is None or recipe.reads in before
    assert {name: set_.name for name, set_ in SETS.items()} == {
        "rephrase": "safeweb", "refuse": "refuseweb", "moralize": "moral_education"
    }  # fmt: skip
    assert set(records.DIALOGUE_RECIPES) <= set(RECIPES)


@pytest.mark.parametrize("name", STYLES)
def test_recipe_has_shipped_styles(name: str) -> None:
    assert set(STYLES[name]) <= set(RECIPES[name].styles)
    assert all(description for description in RECIPES[name].styles.values())


def test_new_style_is_one_new_file(tmp_path: Path) -> None:
    shutil.copytree(str(FOLDER / "rephrase"), tmp_path / "rephrase")
    (tmp_path / "rephrase" / "styles" / "a_new_style.txt").write_text("A short radio play.\n")
    old = RECIPES["rephrase"]
    new = replace(old, styles=read_styles(tmp_path / "rephrase"))
    assert set(new.styles) == {*old.styles, "a_new_style"}
    assert list(new.styles) == sorted(new.styles)
    assert new.styles["a_new_style"] == "A short radio play."
    before, after = ([r.choose_style(3, f"d{n}") for n in range(2600)] for r in (old, new))
    counts, expected = Counter(after), 2600 / len(new.styles)
    assert set(counts) == set(new.styles)
    assert all(expected / 2 < n < expected * 2 for n in counts.values())
    # Rows keep their style, except those that get the new one.
    assert {new for old, new in zip(before, after, strict=True) if new != old} == {"a_new_style"}


def test_choose_style_depends_on_seed_id_and_attempt_only() -> None:
    recipe = RECIPES["rephrase"]
    reordered = replace(recipe, styles=dict(reversed(recipe.styles.items())))
    ids = [f"d{n}" for n in range(200)]
    first = [recipe.choose_style(0, id) for id in ids]
    assert [reordered.choose_style(0, id) for id in ids] == first
    assert [recipe.choose_style(1, id) for id in ids] != first
    second = [recipe.choose_style(0, id, 2, style) for id, style in zip(ids, first, strict=True)]
    assert all(a != b for a, b in zip(first, second, strict=True))
    only = replace(recipe, styles={"letter": "A letter."})
    assert only.choose_style(0, "a", 2, "letter") == "letter"


def test_recipe_rejects_invalid_prompt_and_folder(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("[system]\nBe kind.\n[user]\n$key $tone\n$document\n")
    prompt = read_prompt(tmp_path)
    with pytest.raises(ValueError, match="placeholders document, key, tone; it needs key and document"):
        replace(RECIPES["refuse"], prompt=prompt)
    with pytest.raises(ValueError, match="has the placeholders document, harm, key, style"):
        replace(RECIPES["refuse"], uses_harm_type=False)
    (tmp_path / "styles").mkdir()
    with pytest.raises(ValueError, match="has no style"):
        read_styles(tmp_path)


def test_config_defaults_come_from_recipes() -> None:
    config = RewriteConfig(scored="a", classifier="b", output="c", engine=EngineConfig(kind="template"))
    assert config.recipes == ["rephrase", "refuse", "moralize"]
    assert config.recipe_of() == {1: "rephrase", 2: "rephrase", 3: "rephrase", 4: "refuse", 5: "refuse"}
    assert config.recipe_of(threshold=4) == {4: "refuse", 5: "refuse"}
    assert config.derived_recipes == ["moralize"]
