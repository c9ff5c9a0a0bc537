"""The shipped classifier: how it is named, identified and installed."""

from __future__ import annotations

import os
import shutil
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from omegaconf import OmegaConf

from jobs.evaluate import EvaluateConfig
from jobs.score import ScoreConfig
from safety_ray.classifier import packaged
from safety_ray.classifier.batches import add_scores
from safety_ray.classifier.classifier import Classifier, Head
from safety_ray.classifier.encoder import Encoder
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.rewrite.settings import RewriteConfig

ROOT = Path(__file__).resolve().parents[2]
FILES = ("classifier.json", "head.safetensors", "README.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the same layout, whose head knows nothing."""
    encoder, path = Encoder(), tmp_path_factory.mktemp("packaged") / "default"
    Classifier(encoder, Head(torch.zeros(6, encoder.width), torch.zeros(6))).save(path)
    (path / "README.md").write_text("a card")
    return path


def test_packaged_layout_loads_and_gives_uniform_probabilities(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)
    [prediction] = Classifier.load(folder, "cpu").predict(["A quiet soup recipe."])
    assert prediction.probs == pytest.approx([1 / 6] * 6, abs=1e-6)


def test_packaged_fingerprint_depends_on_contents_only(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    (copy / "README.md").write_text("another card")
    first = packaged.fingerprint(folder)
    assert packaged.fingerprint(copy) == first
    (copy / "classifier.json").write_text((copy / "classifier.json").read_text() + " ")
    assert packaged.fingerprint(copy) != first


def test_packaged_fingerprint_rejects_missing_files(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a card alone")
    with pytest.raises(
        UserError, match=r"the shipped classifier is missing from .*; install safety_ray again"
    ):
        packaged.fingerprint(tmp_path)


def test_packaged_names_other_classifiers_as_local_input(tmp_path: Path) -> None:
    assert packaged.as_input("someone/classifier") == {}
    assert packaged.as_input(str(tmp_path)) == {"classifier": str(tmp_path)}
    assert packaged.is_default("default")
    assert packaged.is_default("")
    assert not packaged.is_default("./default")
    assert not packaged.is_default(Path("default"))


def test_packaged_absolute_keeps_names_that_are_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert packaged.absolute("default") == "default"
    assert packaged.absolute("someone/classifier") == "someone/classifier"
    assert packaged.absolute("./default") == str(tmp_path / "default")


def test_packaged_classifier_is_default_of_stages() -> None:
    score = from_dict(ScoreConfig, {"documents": "d", "output": "o"})
    rewrite = from_dict(RewriteConfig, {"scored": "s", "output": "o", "engine": {"kind": "template"}})
    evaluate = from_dict(EvaluateConfig, {"model": "m", "documents": ["d"], "output": "o"})
    assert {score.classifier, rewrite.classifier, evaluate.classifier} == {packaged.DEFAULT}


def test_packaged_files_are_declared_as_package_data() -> None:
    assert packaged.default_folder() == ROOT / "safety_ray" / "classifier" / "default"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["safety_ray"]
    for name in FILES:
        assert any(fnmatch(f"classifier/default/{name}", pattern) for pattern in patterns), name


def test_default_classifier_separates_harmful_from_harmless_texts() -> None:
    harmful = [
        "Those people are subhuman scum and somebody should wipe them out.",
        "I will come to your house tonight and beat you until you stop breathing, you stupid bitch.",
    ]
    harmless = [
        "The library opens at nine and closes at six on weekdays.",
        "Mozilla is a community that develops the web browser Firefox as free software.",
        "The column argues that privacy is a right, and that companies should ask before they track readers.",
        "I'm sorry, but I can't help with breaking into a house. It is illegal and dangerous.",
        "How do I kill a process that does not respond?",
    ]
    predictions = Classifier.load("default", "cpu").predict(harmful + harmless)
    scores = [prediction.score for prediction in predictions]
    assert min(scores[:2]) >= 3
    assert max(scores[2:]) < 3


def test_default_classifier_is_described_by_its_card() -> None:
    card = (packaged.default_folder() / "README.md").read_text()
    from_config = OmegaConf.load(ROOT / "configs" / "fit" / "default.yaml")
    for name in from_config.sources:
        assert f"`{name}`" in card, f"the card does not list the training set {name}"
    for name in from_config.measured:
        assert f"`{name}`" in card, f"the card does not list the measured set {name}"
    assert {path.name for path in packaged.default_folder().iterdir()} == set(FILES)


def test_null_text_has_the_score_of_an_empty_one() -> None:
    batch = pa.table({"id": ["a", "b"], "text": pa.array([None, ""], pa.string())})
    first, second = add_scores(batch, Classifier.load("default", "cpu").predict).to_pylist()
    assert first["text"] is None
    assert {**first, "id": "", "text": ""} == {**second, "id": ""}


def test_classifier_folder_may_end_with_a_slash(classifier: Path) -> None:
    assert Classifier.load(f"{classifier}/", "cpu").predict(["a"]) == Classifier.load(
        classifier, "cpu"
    ).predict(["a"])
