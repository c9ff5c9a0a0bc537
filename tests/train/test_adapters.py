"""LoRA trains only adapters, and exports an equivalent model without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from training_runs import CPU, TINY, losses, run, settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_ray.core.errors import UserError
from safety_ray.train.data import TokenRows
from safety_ray.train.model import build

WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    return write_rows(tmp_path_factory.mktemp("adapters") / "rows")


def lora(base: str, **more: Any) -> dict[str, Any]:
    return {"init": base, "lora_rank": 4, "lora_alpha": 8, **more}


def test_lora_trains_only_adapters_and_exports_merged_model(tmp_path: Path, rows: str, alone: None) -> None:
    base = settings(rows, tmp_path / "base", max_steps=2)
    run(base)
    model = lora(base.output)
    config = settings(rows, tmp_path / "tuned", model=model, lr=1e-2, activation_checkpointing=True)
    result = run(config)
    before, after = (load_file(f"{c.output}/model/model.safetensors") for c in (base, config))
    assert before.keys() == after.keys()  # no adapters
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj." in name}
    assert losses(config.output)[-1][1] < losses(config.output)[0][1]

    tokenizer = AutoTokenizer.from_pretrained(f"{rows}/tokenizer")
    model_with_adapters = build(config.model, tokenizer, context=32, device=CPU.type)
    trained = {name for name, p in model_with_adapters.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model_with_adapters.named_parameters() if "lora_" in name}
    assert len(trained) == 2 * 7 * 2  # two blocks of seven matrices, A and B
    plain = AutoModelForCausalLM.from_pretrained(f"{config.output}/model", dtype=torch.float32)
    assert result["parameters"] == sum(p.numel() for p in plain.parameters())
    ids, learn, *_ = map(torch.from_numpy, TokenRows(rows).read(np.arange(8)))
    loss = plain(input_ids=ids, labels=ids.masked_fill(~learn, -100)).loss
    assert float(loss.detach()) < losses(config.output)[0][1]


def test_lora_training_matches_peft_after_resume(tmp_path: Path, rows: str, alone: None) -> None:
    base = settings(rows, tmp_path / "base", max_steps=2)
    run(base)
    config = settings(rows, tmp_path / "tuned", model=lora(base.output), max_steps=4, checkpoint_every=2,
                      grad_clip=0.0, weight_decay=0.0, warmup_share=0.0, decay_share=0.0)  # fmt: skip

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, stop)
    run(config)

    torch.manual_seed(config.seed)
    network = AutoModelForCausalLM.from_pretrained(f"{base.output}/model", dtype=torch.float32)
    peft_model = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=config.lr,
                                  betas=(0.9, 0.95), weight_decay=0.0)  # fmt: skip
    for step, (_, loss, _) in enumerate(losses(config.output)):
        ids, learn, *_ = map(torch.from_numpy, TokenRows(rows).read(np.arange(step * 8, step * 8 + 8)))
        expected = peft_model(input_ids=ids, labels=ids.masked_fill(~learn, -100)).loss
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        expected.backward()
        optimizer.step()
        optimizer.zero_grad()
    saved = load_file(f"{config.output}/model/model.safetensors")
    for name, value in peft_model.merge_and_unload().state_dict().items():
        if name in saved:
            torch.testing.assert_close(saved[name], value, rtol=1e-3, atol=1e-5)


def test_lora_requires_model_init(tmp_path: Path, rows: str) -> None:
    with pytest.raises(UserError, match=r"0 without model\.init"):
        settings(rows, tmp_path / "out", model={**TINY, "lora_rank": 4})
