"""The estimate of costs: stages calculated by hand."""

from __future__ import annotations

import pytest

from benchmarks.cost import CostEstimate, stages
from safety_ray.core.errors import UserError


def test_stages_follow_from_speeds() -> None:
    config = CostEstimate(
        documents="-", rows="-", tokens_per_page=100, pages_per_second=10, compare_seconds=0.5,
        packed_per_second=50, model_parameters=3, gpu_flops=90, train_use=0.1, rewritten_share=0.25,
        writer_parameters=1, classifier_parameters=9, drafts=2, rewrite_use=0.5, score_use=0.2,
        finetune_tokens=20, answer_tokens=30, answer_use=0.01, checkpoint_bytes=5, checkpoints=4,
    )  # fmt: skip
    found = {stage.name: stage for stage in stages(config, 1000, text_bytes=3, row_bytes=2)}
    assert found["ingest"].core_seconds == 10 / 10 + 10 * 0.5
    assert (found["score"].core_seconds, found["score"].gpu_seconds) == (10 * 0.5, 2 * 9 * 1000 / 18)
    assert found["rewrite"].gpu_seconds == pytest.approx(2 * 1 * (2 * 500) / 45 + 2 * 9 * 500 / 18)
    assert found["rewrite"].bytes == 250 * 3
    assert found["pack"].core_seconds == 1000 / 50 + 10 * 0.5
    assert found["pack"].bytes == 1000 * 2
    assert found["pretrain"].gpu_seconds == pytest.approx(6 * 3 * 1000 / 9)
    assert found["pretrain"].bytes == found["finetune"].bytes == 4 * 3 * 5
    assert found["finetune"].gpu_seconds == pytest.approx(6 * 3 * 20 / 9)
    assert found["evaluate"].gpu_seconds == pytest.approx(2 * 3 * 30 / 0.9)


def test_cost_estimate_of_paper_agrees_with_its_gpu_days() -> None:
    (pretrain,) = [
        s for s in stages(CostEstimate(documents="-", rows="-"), 6e11, 3, 3) if s.name == "pretrain"
    ]
    assert 32 * 6 < pretrain.gpu_seconds / 86_400 < 32 * 7, "32 H100 took 6 to 7 days"


def test_cost_estimate_names_a_number_below_zero() -> None:
    with pytest.raises(UserError, match="score_use=0 must be above 0"):
        CostEstimate(documents="-", rows="-", score_use=0)
