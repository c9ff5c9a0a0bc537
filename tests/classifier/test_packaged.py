"""The shipped classifier: how it is named, identified and installed."""

from __future__ import annotations

import os
import shutil
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from jobs.evaluate import EvaluateConfig
from jobs.score import ScoreConfig
from safety_ray.classifier import packaged
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
    rewrite = from_dict(RewriteConfig, {"scored": "s", "output": "o"})
    evaluate = from_dict(EvaluateConfig, {"model": "m", "documents": ["d"], "output": "o"})
    assert {score.classifier, rewrite.classifier, evaluate.classifier} == {packaged.DEFAULT}


def test_packaged_files_are_declared_as_package_data() -> None:
    assert packaged.default_folder() == ROOT / "safety_ray" / "classifier" / "default"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["safety_ray"]
    for name in FILES:
        assert any(fnmatch(f"classifier/default/{name}", pattern) for pattern in patterns), name
