"""Casting, document masks, attention kernels, the loss and searches on a GPU, compared with the CPU in fp32.

The functions take the device and import no pytest, because benchmarks/gpu.py also runs them, on machines with
torch and transformers only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from safety_ray.core.device import cast_parameters
from safety_ray.decode.hf import safe_beam_search_batch
from safety_ray.train import attention, loss
from safety_ray.train.model import LanguageModel

LENGTH = 512
CUTS = (0, 200, 210, LENGTH)


def network(name: str, device: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=256, max_position_embeddings=LENGTH,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation=name).to(device).eval()


def random_ids(rows: int) -> torch.Tensor:
    return torch.randint(512, (rows, LENGTH), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_bf16_model_keeps_rotary_frequencies_on_device(device: str) -> None:
    model = network("sdpa", device)
    expected = model.model.rotary_emb.inv_freq.clone()
    cast_parameters(model, torch.bfloat16)
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, expected)
    logits = model(input_ids=random_ids(2).to(device)).logits.float().cpu()
    exact = network("sdpa", "cpu")(input_ids=random_ids(2)).logits
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()


def test_causal_sdpa_equals_sdpa_on_device(device: str) -> None:
    model, ids = network("sdpa", device), random_ids(2).to(device)
    cast_parameters(model, torch.bfloat16)
    positions = torch.arange(LENGTH, device=device).expand(2, -1)
    found = []
    for name in ("sdpa", attention.CAUSAL, attention.CAUSAL_CUDNN):
        model.set_attn_implementation(name)
        model.zero_grad()
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits.float()
        logits.logsumexp(-1).sum().backward()
        found.append((logits.detach(), model.model.embed_tokens.weight.grad.float()))
    for plain, *others in zip(*found, strict=True):
        for other in others:
            assert (plain - other).abs().max() <= 0.05 * plain.abs().max()


def test_document_masks_isolate_documents_on_device(device: str) -> None:
    ids = random_ids(2)
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = loss.IGNORED
    spans = [slice(start, end) for start, end in pairwise(CUTS)]
    positions = torch.cat([torch.arange(s.stop - s.start) for s in spans]).expand(2, -1)
    exact = network("eager", "cpu")
    expected = torch.cat([_losses(exact(input_ids=ids[:, s]).logits, targets[:, s]) for s in spans], dim=1)
    expected.sum().backward()
    gradient = exact.model.embed_tokens.weight.grad
    for name in ("eager", "sdpa", *(["flex_attention"] if device != "cpu" else [])):
        model = LanguageModel(network(name, device), document_mask=True)
        total, losses = model(ids.to(device), targets.to(device), positions.to(device))
        total.backward()
        torch.testing.assert_close(losses.cpu(), expected.detach(), rtol=1e-2, atol=1e-2)
        found = model.network.model.embed_tokens.weight.grad.cpu()
        assert (found - gradient).norm() < 0.02 * gradient.norm(), name


def test_loss_matches_pytorch_on_device(device: str) -> None:
    random = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, 64, generator=random) for size in (3000, 1000))
    targets = torch.randint(1000, (3000,), generator=random)
    targets[::7] = loss.IGNORED
    targets[3], tag = 7, 7
    leaves = [tensor.double().requires_grad_() for tensor in (hidden, weight)]
    logits, learned = leaves[0] @ leaves[1].T, targets != loss.IGNORED
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    p_tag, is_tag = logits.softmax(1)[learned, tag], (targets == tag).double()[learned]
    of_tag = torch.nn.functional.binary_cross_entropy(p_tag, is_tag, reduction="sum")
    for tag_weight in (1.0, 5.0):
        sum_of_losses = expected.sum() + (tag_weight - 1) * of_tag
        gradients = torch.autograd.grad(sum_of_losses, leaves, retain_graph=True)
        for compiled in (False, True):
            ours = [tensor.to(device).requires_grad_() for tensor in (hidden, weight)]
            total, losses = loss.summed_cross_entropy(
                *ours, targets.to(device), tag_id=tag, tag_weight=tag_weight, compiled=compiled
            )
            torch.testing.assert_close(losses.cpu().double(), expected, rtol=1e-2, atol=1e-2)
            for found, gradient in zip(torch.autograd.grad(total, ours), gradients, strict=True):
                assert (found.cpu().double() - gradient).norm() < 0.02 * gradient.norm()


def test_captured_search_equals_search_on_cpu(device: str) -> None:
    prompts = [ids[:length].tolist() for ids, length in zip(random_ids(3), (7, 40, 21), strict=True)]
    found = []
    for place, captured in (("cpu", False), (device, False), (device, True), (device, True)):
        model = network("sdpa", place)
        model.lm_head.weight.data *= 30  # otherwise all tokens are about equally likely
        found.append(
            safe_beam_search_batch(
                model, prompts, tag_id=3, eos_id=range(300, 330), max_new_tokens=40, cuda_graph=captured
            )
        )
    expected = [[(h.token_ids, h.finished) for h in search] for search in found[0]]
    assert len({len(search[0].token_ids) for search in found[0]}) > 1, "all searches end at the same step"
    for searches in found[1:]:
        assert [[(h.token_ids, h.finished) for h in search] for search in searches] == expected


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    flat = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=loss.IGNORED, reduction="none"
    )
    return flat.view_as(targets)
