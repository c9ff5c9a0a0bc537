"""General ability without lm-eval: log-likelihoods, settings and the message if the package is missing."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.evaluate import EvaluateConfig
from safety_ray.core.errors import UserError
from safety_ray.evaluate import ability

TAG, POSITIONS = 4, 24


@pytest.mark.parametrize("tag_id", [TAG, None])
def test_log_likelihoods_match_token_by_token(tag_id: int | None) -> None:
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=POSITIONS, initializer_range=0.5,
    )  # fmt: skip
    llama = LlamaForCausalLM(shape).eval()
    rng = random.Random(0)
    tokens = [token for token in range(30) if token != TAG]
    rows = [
        ([rng.choice(tokens) for _ in range(n)], k) for n, k in ((9, 3), (2, 1), (24, 24), (40, 5), (9, 1))
    ]
    with torch.no_grad():  # the last row is the most likely continuation
        logits = llama(torch.tensor([rows[-1][0][:-1]])).logits[0, -1]
    logits[TAG] = -torch.inf
    rows[-1][0][-1] = int(logits.argmax())
    found = ability.log_likelihoods(llama, rows, tag_id, POSITIONS)
    for (ids, number), (value, greedy) in zip(rows, found, strict=True):
        cut = ids[-(POSITIONS + 1) :]
        total, most_likely = 0.0, True
        for position in range(len(cut) - min(number, len(cut) - 1), len(cut)):
            with torch.no_grad():
                row = llama(torch.tensor([cut[:position]])).logits[0, -1].double()
            if tag_id is not None:
                row[tag_id] = -torch.inf
            total += float(row.log_softmax(-1)[cut[position]])
            most_likely &= int(row.argmax()) == cut[position]
        assert value == pytest.approx(total, abs=1e-4)
        assert greedy == most_likely
    assert found[-1][1] or tag_id is None


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_check_names_missing_package() -> None:
    with pytest.raises(
        UserError,
        match=r"lm_tasks needs the package lm-eval; install it with .* -r requirements/lm-eval\.txt\.",
    ):
        ability.check(["arc_easy"])
    ability.check([])


def test_evaluate_config_rejects_lm_tasks_without_model() -> None:
    with pytest.raises(UserError, match="lm_tasks: needs model"):
        EvaluateConfig(answers="a", lm_tasks=["arc_easy"], output="o")
    with pytest.raises(UserError, match="each task once"):
        EvaluateConfig(model="m", lm_tasks=["a/x.yaml", "b/x.yaml"], output="o")


def test_ability_titles_and_table() -> None:
    assert [ability.title(task) for task in ("arc_easy", "my/tasks/boats.yaml")] == ["arc_easy", "boats"]
    assert ability.absolute("arc_easy") == "arc_easy"
    assert ability.absolute("x.yaml") == str(Path("x.yaml").absolute())
    lines = ability.lines({"boats": {"acc": 0.25, "acc_stderr": 0.1, "sample_len": 4}})
    assert lines[2:] == ["| `boats` | acc | 0.25 ± 0.1 |"]
