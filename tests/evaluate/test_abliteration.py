"""Abliteration: the direction against states of transformers, the weights against projected states."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
)

from jobs.abliterate import AbliterateConfig, abliterate_model
from safety_ray.core.errors import UserError
from safety_ray.evaluate import model
from safety_ray.evaluate.abliteration import check, check_removed, find_direction, remove_direction

WIDTH, BLOCKS, VOCABULARY = 32, 3, 80
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def llama(*, tied: bool = False, bias: bool = False) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=BLOCKS,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.3,
        attention_bias=bias, mlp_bias=bias,
    )  # fmt: skip
    network = LlamaForCausalLM(config).eval()
    for name, parameter in network.named_parameters():
        if "norm" in name or "bias" in name:  # which are initialized to 1 and 0
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return network


@torch.no_grad()
def logits(network: Any) -> Tensor:
    found: Tensor = network(input_ids=IDS, use_cache=False).logits
    return found


def logits_of_projected_states(network: Any, direction: Tensor) -> Tensor:
    """Return logits of `network` if all that is added to its residual stream loses the direction."""

    def project(module: Any, args: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        unit = direction.to(states.dtype)
        states = states - (states @ unit)[..., None] * unit
        return (states, *output[1:]) if isinstance(output, tuple) else states

    modules = [network.model.embed_tokens]
    for block in network.model.layers:
        modules += [block.self_attn, block.mlp]
    handles = [module.register_forward_hook(project) for module in modules]
    found = logits(network)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("layer", [1, 2])
def test_find_direction_is_difference_of_mean_states(layer: int) -> None:
    network, read = llama(), []

    def last(prompt: list[int]) -> Tensor:
        states: Tensor = network(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states
        return states[layer][0, -1].detach().double()

    harmful, harmless = PROMPTS[:3], PROMPTS[1:]
    found = find_direction(network, harmful, harmless, layer, on_read=read.append)
    means = [torch.stack([last(prompt) for prompt in group]).mean(0) for group in (harmful, harmless)]
    expected = means[0] - means[1]
    torch.testing.assert_close(found, expected / expected.norm(), rtol=1e-4, atol=1e-5)
    assert read == sorted(read)
    assert read[-1] == len(harmful) + len(harmless)


@pytest.mark.parametrize(("tied", "bias"), [(False, False), (True, False), (False, True)])
def test_remove_direction_equals_projection_of_states(tmp_path: Path, tied: bool, bias: bool) -> None:
    network = llama(tied=tied, bias=bias)
    direction = find_direction(network, PROMPTS[:2], PROMPTS[2:], 2)
    before, expected = logits(network), logits_of_projected_states(network, direction)
    remove_direction(network, direction)
    torch.testing.assert_close(logits(network), expected, rtol=1e-3, atol=1e-4)
    assert (before - expected).abs().max() > 0.1
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(network))


def test_check_refuses_other_architectures() -> None:
    assert check(llama()) == BLOCKS
    network = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(UserError, match="GPT2LMHeadModel has no blocks named 'layers'"):
        check(network)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    experts = MixtralForCausalLM(MixtralConfig(vocab_size=8, num_local_experts=2, **shape))
    with pytest.raises(UserError, match=r"MixtralForCausalLM have no self_attn\.o_proj and"):
        check(experts)


@pytest.mark.parametrize("normalized", [False, True])
def test_check_removed_finds_models_that_bring_the_direction_back(normalized: bool) -> None:
    network = llama()
    if normalized:
        torch.manual_seed(0)
        shape = {"intermediate_size": 48, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
        network = Olmo2ForCausalLM(Olmo2Config(vocab_size=VOCABULARY, hidden_size=WIDTH, **shape)).eval()
        for name, parameter in network.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, 1.0, 0.3)
    direction = find_direction(network, PROMPTS[:2], PROMPTS[2:], 2)
    with pytest.raises(UserError, match="keep the direction"):
        check_removed(network, direction, PROMPTS, 2)
    remove_direction(network, direction)
    if normalized:
        with pytest.raises(UserError, match="Olmo2ForCausalLM: its states keep the direction"):
            check_removed(network, direction, PROMPTS, 2)
    else:
        check_removed(network, direction, PROMPTS, 2)


def test_find_direction_needs_means_that_are_finite_and_differ() -> None:
    network = llama()
    with pytest.raises(UserError, match="have the same mean state; give other prompts"):
        find_direction(network, PROMPTS, PROMPTS, 1)
    network.model.embed_tokens.weight.data[11] = torch.nan
    with pytest.raises(UserError, match="the states of some prompts are not finite"):
        find_direction(network, PROMPTS[:2], PROMPTS[2:], 1)


def after_dtype(folder: Path) -> torch.dtype:
    with safe_open(folder / "model" / "model.safetensors", "pt") as file:
        [dtype] = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    return dtype


def settings(model_path: str, output: Path, **more: Any) -> AbliterateConfig:
    values = {"max_prompts": 8, "prompt_words": 5, **more}
    return AbliterateConfig(model=model_path, output=str(output), **values)


def test_abliterate_stage_writes_model_that_loads(
    tmp_path: Path, model_path: str, documents_path: str
) -> None:
    network = AutoModelForCausalLM.from_pretrained(f"{model_path}/model", dtype=torch.bfloat16)
    model_path = str(shutil.copytree(model_path, tmp_path / "in"))
    network.save_pretrained(f"{model_path}/model")  # in bf16
    record = abliterate_model(settings(model_path, tmp_path / "out", documents=[documents_path]))
    assert after_dtype(tmp_path / "out") == torch.bfloat16
    assert (record["harmful"], record["harmless"], record["rows_out"]) == (8, 8, 1)
    before, after = model.describe(model_path), model.describe(str(tmp_path / "out"))
    assert (after.tag_id, after.vocabulary, after.dtype) == (before.tag_id, before.vocabulary, before.dtype)
    networks = [model.load(found.folder)[0] for found in (before, after)]
    ids = torch.arange(8)[None]
    first, second = (network(input_ids=ids).logits for network in networks)
    assert first.shape == second.shape
    assert (first - second).abs().max() > 1e-4
    assert "Do not serve it" in (tmp_path / "out" / "model" / "README.md").read_text()
    assert abliterate_model(settings(model_path, tmp_path / "out", documents=[documents_path])) == record


def test_abliterate_stage_reads_prompt_file_in_chat_template(tmp_path: Path, untagged_path: str) -> None:
    prompts = tmp_path / "mine.csv"
    prompts.write_text("prompt,kind\nhow,harmful\nwhy,harmless\nwho,harmless\n")
    record = abliterate_model(
        settings(untagged_path, tmp_path / "out", prompt_sets=[str(prompts)], chat=True, depth=0.4)
    )
    assert (record["harmful"], record["harmless"]) == (1, 2)
    prompts.write_text("prompt\nhow\n")
    with pytest.raises(UserError, match="no prompt is harmless; add a set with harmless prompts"):
        abliterate_model(settings(untagged_path, tmp_path / "one", prompt_sets=[str(prompts)]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"documents": []}, "give datasets if prompt_sets is empty or has 'documents', and otherwise none"),
        ({"prompt_sets": ["xstest"]}, "give datasets if prompt_sets is empty or has 'documents'"),
        ({"depth": 1.0}, "depth=1.0 must be between 0 and 1"),
        ({"prompt_words": 0}, "prompt_words=0 must be at least 1"),
        ({"max_prompts": 0}, "max_prompts=0 must be at least 1"),
        ({"unsafe_from": 1}, "safe_up_to=1 must be less than unsafe_from=1"),
        ({"prompt_sets": ["advbanch"]}, "the nearest is 'advbench'"),
    ],
)
def test_abliterate_config_rejects_invalid_values(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings("model", tmp_path / "out", **{"documents": ["documents"], **more})
