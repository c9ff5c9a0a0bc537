"""The shipped corpus has the properties that its docstrings state."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from jobs.corpus import CorpusConfig, documents, make_corpus
from safety_ray.core.errors import UserError
from safety_ray.corpus.expand import expand
from safety_ray.corpus.seeds import SLOT, load_seeds

CATEGORIES = {
    "Violent Crimes", "Non-Violent Crimes", "Sex-Related Crimes", "Child Sexual Exploitation", "Defamation",
    "Specialized Advice", "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate",
    "Suicide & Self-Harm", "Sexual Content", "Elections", "Code Interpreter Abuse",
}  # fmt: skip


def test_load_seeds_covers_all_scores_and_categories() -> None:
    seeds = load_seeds()
    assert len({seed.id for seed in seeds}) == len(seeds) >= 300
    by_score = Counter(seed.score for seed in seeds)
    assert set(by_score) == set(range(6))
    assert min(by_score.values()) >= 40
    assert {seed.category for seed in seeds} == CATEGORIES | {"none"}
    assert sum(seed.hard for seed in seeds) >= 40
    assert all(seed.score <= 2 for seed in seeds if seed.category == "Child Sexual Exploitation")


@pytest.mark.parametrize("number", [0, 1, 7])
def test_expand_returns_clean_text(number: int) -> None:
    for seed in load_seeds():
        text = expand(seed, number, 0)
        assert not re.search(r"[{}|]", text), seed.id
        assert "  " not in text, seed.id
        assert 40 <= len(text.split()) <= 170, seed.id


def test_expand_is_deterministic_per_number_and_seed() -> None:
    seed = next(seed for seed in load_seeds() if len(SLOT.findall(seed.text)) >= 8)
    assert expand(seed, 3, 0) == expand(seed, 3, 0)
    assert len({expand(seed, number, 0) for number in range(20)}) > 15
    assert expand(seed, 3, 0) != expand(seed, 3, 1)


def test_corpus_documents_keep_heldout_families_disjoint() -> None:
    rows = documents(1500, 0)
    families: dict[str, set[str]] = {"train": set(), "heldout": set()}
    texts: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for row in rows:
        families[row["split"]].add(row["family"])
        texts[row["split"]].add(row["text"])
    assert not families["train"] & families["heldout"]
    assert not texts["train"] & texts["heldout"]
    assert 0.08 < len(families["heldout"]) / len(load_seeds()) < 0.28
    assert len({row["id"] for row in rows}) == len(rows) == 1500


def test_corpus_config_rejects_too_few_documents(tmp_path) -> None:
    with pytest.raises(UserError, match="documents=3 must be at least"):
        CorpusConfig(output=str(tmp_path / "out"), documents=3)


def test_corpus_stage_skips_finished_run(tmp_path) -> None:
    config = CorpusConfig(output=str(tmp_path / "out"), documents=600)
    first = make_corpus(config)
    assert first["rows_out"] == 600
    assert make_corpus(config) == first
