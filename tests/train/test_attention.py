"""Attention in training: documents of a row are isolated, and the kernel without a mask changes nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.masking_utils import create_causal_mask

from safety_ray.core.errors import UserError
from safety_ray.train import attention
from safety_ray.train.loss import IGNORED
from safety_ray.train.model import LanguageModel, build
from safety_ray.train.settings import ModelConfig

LENGTH = 160  # more than a block of flex attention
CUTS = ((0, 50, 60, LENGTH), (0, 70, 159, LENGTH))


def network(name: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation=name).eval()


@pytest.mark.parametrize("name", ["eager", "sdpa", "flex_attention"])
@torch.no_grad()
def test_document_mask_gives_losses_of_separate_documents(name: str) -> None:
    model = LanguageModel(network(name), document_mask=True)
    reference = network("eager")
    ids = torch.randint(100, (len(CUTS), LENGTH))
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    positions = torch.cat(
        [torch.cat([torch.arange(end - start) for start, end in _spans(cuts)])[None] for cuts in CUTS]
    )
    with torch.compiler.set_stance("force_eager"):  # compilation of flex attention takes half a minute
        _, losses = model(ids, targets, positions)
    for row, cuts in enumerate(CUTS):
        for start, end in _spans(cuts):
            logits = reference(input_ids=ids[row : row + 1, start:end]).logits[0]
            expected = torch.nn.functional.cross_entropy(
                logits, targets[row, start:end], ignore_index=IGNORED, reduction="none"
            )
            torch.testing.assert_close(losses[row, start:end], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [attention.CAUSAL, attention.CAUSAL_CUDNN])
@torch.no_grad()
def test_causal_sdpa_equals_sdpa_and_makes_no_mask(name: str) -> None:
    model = network("sdpa")
    ids, positions = torch.randint(100, (2, 40)), torch.arange(40).expand(2, -1)
    expected = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    model.set_attn_implementation(name)
    assert torch.equal(model(input_ids=ids, position_ids=positions, use_cache=False).logits, expected)
    restarting = positions % 7  # for which transformers would make a mask
    arguments = {"attention_mask": None, "past_key_values": None, "position_ids": restarting}
    embeddings = model.get_input_embeddings()(ids)
    assert create_causal_mask(model.config, embeddings, **arguments) is None


def test_causal_cudnn_is_one_graph_with_activation_checkpointing() -> None:
    model = network(attention.CAUSAL_CUDNN)
    model.train()
    expected = network("sdpa")
    ids = torch.randint(100, (2, 40))
    for n, block in enumerate(model.model.layers):
        model.model.layers[n] = checkpoint_wrapper(block)
        model.model.layers[n].compile(backend="aot_eager", fullgraph=True)
    for candidate in (model, expected):
        candidate(input_ids=ids, use_cache=False).logits.logsumexp(-1).sum().backward()
    gradients = [m.model.embed_tokens.weight.grad for m in (model, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "context", "document_mask", "expected"),
    [
        ("auto", 512, False, "eager"),
        ("auto", 513, False, attention.CAUSAL),
        ("auto", 513, True, "sdpa"),
        ("sdpa", 513, False, "sdpa"),
    ],
)
def test_build_selects_attention(
    tokenizer: Any, setting: Any, context: int, document_mask: bool, expected: str
) -> None:
    config = ModelConfig(
        hidden_size=16, layers=1, heads=2, kv_heads=2, intermediate_size=16, attention=setting,
        document_mask=document_mask,
    )  # fmt: skip
    model = build(config, tokenizer, context=context, device="cpu")
    assert model.network.config._attn_implementation == expected
    assert attention.CAUSAL not in str(model.network.config.to_dict())  # not in an exported config.json


def test_build_selects_flex_attention_for_documents_on_gpus(tokenizer: Any) -> None:
    config = ModelConfig(hidden_size=16, layers=1, heads=2, kv_heads=2, document_mask=True)
    model = build(config, tokenizer, context=1024, device="cuda")
    assert model.network.config._attn_implementation == "flex_attention"
    assert model.block_mask


def test_attention_settings_that_do_not_work_are_refused(tokenizer: Any) -> None:
    for name in ("flash_attention_2", "flash_attention_3"):
        with pytest.raises(UserError, match=f"{name} does not mask documents"):
            ModelConfig(attention=name, document_mask=True)
        with pytest.raises(UserError, match=rf"model\.attention={name} cannot be used: .*\. Use auto\."):
            build(ModelConfig(attention=name), tokenizer, context=32, device="cuda")
        with pytest.raises(UserError, match=f"{name}: cannot be trained on a CPU"):
            build(ModelConfig(attention=name), tokenizer, context=32, device="cpu")
    with pytest.raises(UserError, match=r"flex_attention is for model\.document_mask=true"):
        ModelConfig(attention="flex_attention")
    with pytest.raises(UserError, match="cannot be trained on a CPU"):
        build(
            ModelConfig(attention="flex_attention", document_mask=True), tokenizer, context=32, device="cpu"
        )


def _spans(cuts: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(pairwise(cuts))
