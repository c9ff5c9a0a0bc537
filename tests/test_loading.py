"""Nothing that comes from outside is unpickled, and no code that comes with a model runs unasked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig

from jobs.fit import FitConfig
from jobs.score import ScoreConfig
from safety_ray.core.errors import UserError
from safety_ray.evaluate.config import EvaluateConfig
from safety_ray.evaluate.model import load
from safety_ray.llm.engine import EngineConfig
from safety_ray.rewrite.settings import RewriteConfig
from safety_ray.train.validation import ValidationConfig
from serve.settings import ServeConfig

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("safety_ray", "jobs", "serve", "benchmarks", "examples")
SOURCES = {
    path: ast.parse(path.read_text()) for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))
}
UNPICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NO_WEIGHTS = {"AutoTokenizer", "AutoConfig"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}


def test_sources_import_nothing_that_unpickles() -> None:
    for path in SOURCES:
        for node in ast.walk(SOURCES[path]):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or node.names[0].name
                assert module.split(".")[0] not in UNPICKLES, path
        for name, call in calls(path):
            assert name not in ("torch.load", "np.load", "numpy.load"), path
            assert "allow_pickle" not in keywords(call), path


def test_sources_load_weights_from_safetensors_only() -> None:
    loads = 0
    for path in SOURCES:
        for name, call in calls(path):
            if name.endswith(".from_pretrained") and name.split(".")[0] not in NO_WEIGHTS:
                assert keywords(call).get("use_safetensors") == "True", f"{path}: {name}"
                loads += 1
    assert loads >= 3


def test_sources_run_code_of_models_only_if_setting_says_so() -> None:
    for path in SOURCES:
        for name, call in calls(path):
            value = keywords(call).get("trust_remote_code", "False")
            assert value != "True", f"{path}: {name}"


def test_configs_trust_code_only_of_models_that_they_name() -> None:
    trusting = 0
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        trusts = re.search(r"trust_remote_code: true", path.read_text(), re.IGNORECASE) is not None
        trusting += trusts
        model = values.get("encoder") or values.get("classifier")
        assert not trusts or re.fullmatch(r"[\w.-]+/[\w.-]+", model or ""), f"{path} trusts any model"
    assert trusting == 2
    assert not FitConfig(labelled="a", output="b").trust_remote_code


def test_sources_load_classifiers_with_consent_of_a_setting() -> None:
    loads = [
        (path, keywords(call))
        for path in SOURCES
        for name, call in calls(path)
        if name == "Classifier.load" and path.relative_to(ROOT).parts[0] in ("safety_ray", "jobs")
    ]
    assert len(loads) >= 6
    for path, given in loads:
        assert given.get("trust_remote_code", "").endswith("trust_remote_code"), path
    engine = EngineConfig(kind="template")
    needed = {"documents": "a"}, {"scored": "a", "engine": engine}, {"model": "a", "documents": ["a"]}
    for cls, given in zip((ScoreConfig, RewriteConfig, EvaluateConfig), needed, strict=True):
        assert not cls(output="b", **given).trust_remote_code
    assert not ValidationConfig().trust_remote_code


@pytest.mark.parametrize("load_format", ["pt", "auto", "hf", "npcache", "safetensor"])
def test_engines_refuse_load_formats_of_pickle_files(load_format: str) -> None:
    args: dict[str, Any] = {"engine_args": {"load_format": load_format}}
    for make in (EngineConfig, ServeConfig):
        kind = {"kind": "vllm"} if make is EngineConfig else {}
        with pytest.raises(UserError, match=f"load_format={load_format}: .* choose from safetensors"):
            make(model="m", **kind, **args)
        make(model="m", **kind, engine_args={"load_format": "runai_streamer"})


def test_model_in_pickle_file_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(str(tmp_path))
