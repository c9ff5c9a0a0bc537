"""A path of a model is a folder, a URL, the output of a run, or an id on the model hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safety_ray.core import model_path
from safety_ray.core.errors import UserError


def model(folder: Path) -> str:
    """Write what makes a folder one of a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return str(folder)


def test_as_input_ignores_hub_id_and_keeps_local_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "someone/classifier"):
        assert model_path.as_input("classifier", name) == {}
        assert model_path.find(name) == name
        model(Path(name))
        assert model_path.as_input("classifier", name) == {"classifier": name}
    assert model_path.as_input("model", "") == {}
    for path in ("runs/demo/fit", "./fit", "/a/fit", "memory://fit/a"):
        assert model_path.as_input("classifier", path) == {"classifier": path}


def test_find_returns_model_of_a_run(tmp_path: Path) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    exported = model(run / "model")
    (run / "config.json").write_text(json.dumps({"config": {}, "inputs": {}}))
    assert model_path.find(str(run)) == model_path.find(exported) == exported
    assert model_path.find(model(alone)) == str(alone)


def test_find_names_setting_of_a_path_without_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.init: '.*' contains no model; give a folder"):
        model_path.find(str(tmp_path), "model.init")
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "inputs": {}}))
    with pytest.raises(UserError, match=r"is not finished; run the stage that writes it again first"):
        model_path.find(str(tmp_path))
