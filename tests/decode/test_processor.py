"""The logits processor, compared with a plain Python reference, in batches that change as vLLM's do."""

from __future__ import annotations

import inspect
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from safety_ray.core.errors import UserError
from safety_ray.decode.processor import LAST, TagPolicy, TagRows, check_sampling, end_token, parse_policy

VOCAB, TAG, EOS = 17, 5, 3


def reference(logits: list[float], mode: str, threshold: float, end: int) -> list[float]:
    """Return the processed logits of one request, in plain Python."""
    if mode == "off":
        return logits
    p_tag = math.exp(logits[TAG]) / sum(math.exp(x) for x in logits)
    if mode == "stop" and p_tag >= threshold:
        return [0.0 if i == end else -math.inf for i in range(VOCAB)]
    return [-math.inf if i == TAG else x for i, x in enumerate(logits)]


def assert_same(logits: torch.Tensor, expected: list[list[float]]) -> None:
    """Assert that the sampling probabilities are equal at several temperatures."""
    for temperature in (0.01, 1.0, 2.0):
        torch.testing.assert_close(
            (logits / temperature).softmax(-1), (torch.tensor(expected) / temperature).softmax(-1)
        )


def random_logits(rng: random.Random, rows: int) -> torch.Tensor:
    values = [[rng.gauss(0, 2) for _ in range(VOCAB)] for _ in range(rows)]
    for row in values:
        row[TAG] += rng.choice([-4, 0, 4])
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("seed", range(6))
def test_tag_processor_matches_reference_in_vllm_input_batch(seed: int) -> None:
    """Requests join, leave and move in vLLM's InputBatch; each keeps its own policy."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

    from safety_ray.decode.vllm_processor import TagProcessor, engine_config

    rng, size = random.Random(seed), 8
    default = TagPolicy("stop", 0.4)
    config = SimpleNamespace(additional_config=engine_config(TAG, default))
    processor = TagProcessor(config, torch.device("cpu"), False)  # type: ignore[arg-type]
    parameters = inspect.signature(InputBatch).parameters  # vLLM 0.32 has no kernel_block_sizes
    batch = InputBatch(
        **({"kernel_block_sizes": [16]} if "kernel_block_sizes" in parameters else {}),
        max_num_reqs=size,
        max_model_len=64,
        max_num_batched_tokens=64,
        device=torch.device("cpu"),
        vocab_size=VOCAB,
        block_sizes=[16],
        max_num_blocks_per_req=[4],
        logitsprocs=LogitsProcessors([processor]),
    )
    policies: dict[str, tuple[str, float, int]] = {}
    created = compared = 0
    for _ in range(120):
        for name in rng.sample(sorted(policies), rng.randint(0, min(3, len(policies)))):
            batch.remove_request(name)
            del policies[name]
        for _ in range(rng.randint(0, min(3, size - len(policies)))):
            name, created = f"r{created}", created + 1
            mode, threshold = (
                rng.choice(["off", "mask", "stop", "default"]),
                rng.choice([0.01, 0.1, 0.5, 0.9]),
            )
            stops = rng.choice([[], [TAG], [TAG, 9]])
            extra = {"safety_mode": mode, "safety_threshold": threshold} if mode != "default" else None
            params = SamplingParams(max_tokens=9, extra_args=extra, stop_token_ids=stops)
            params.update_from_generation_config({}, EOS)
            batch.add_request(
                CachedRequestState(
                    req_id=name,
                    prompt_token_ids=[1, 2],
                    mm_features=[],
                    sampling_params=params,
                    generator=None,
                    block_ids=([0],),
                    num_computed_tokens=0,
                    output_token_ids=[],
                )
            )
            mode, threshold = (mode, threshold) if mode != "default" else (default.mode, default.threshold)
            policies[name] = (mode, threshold, TAG if TAG in stops else EOS)
        batch.condense()
        if len(policies) > 1 and rng.random() < 0.5:  # attention backends swap rows to sort a batch
            batch.swap_states(*rng.sample(range(len(policies)), 2))
        batch.refresh_metadata()
        if not policies:
            continue
        logits = random_logits(rng, len(policies))
        expected = [reference(logits[i].tolist(), *policies[name]) for i, name in enumerate(batch.req_ids)]
        assert_same(processor.apply(logits.clone()), expected)
        compared += len(policies)
    assert compared > 200


@pytest.mark.parametrize("seed", range(6))
def test_tag_processor_matches_reference_for_batch_updates(seed: int) -> None:
    """As above, with BatchUpdate objects created by the test, including moves onto used rows."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from safety_ray.decode.vllm_processor import TagProcessor, engine_config

    rng = random.Random(seed)
    processor = TagProcessor(
        SimpleNamespace(additional_config=engine_config(TAG)), torch.device("cpu"), False
    )  # type: ignore[arg-type]
    rows: dict[int, tuple[str, float, int]] = {}
    for _ in range(150):
        removed = rng.sample(sorted(rows), rng.randint(0, min(2, len(rows))))
        for row in removed:
            del rows[row]
        added: list[Any] = []
        for row in rng.sample(range(10), rng.randint(0, 3)):  # a new request may replace a running one
            mode, threshold = rng.choice(["off", "mask", "stop"]), rng.choice([0.05, 0.3, 0.8])
            params = SamplingParams(extra_args={"safety_mode": mode, "safety_threshold": threshold})
            params.update_from_generation_config({}, EOS)
            added.append((row, params, None, []))
            rows[row] = (mode, threshold, EOS)
        moved = []
        for _ in range(rng.randint(0, 2)):
            if len(rows) > 1:
                a, b = rng.choice(sorted(rows)), rng.randrange(10)
                if a == b:
                    continue
                swap = rng.random() < 0.5
                moved.append((a, b, MoveDirectionality.SWAP if swap else MoveDirectionality.UNIDIRECTIONAL))
                first, second = rows.pop(a), rows.pop(b, None)
                rows[b] = first
                if swap and second is not None:
                    rows[a] = second
        size = max(rows, default=-1) + 1
        processor.update_state(BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved))
        processor.update_state(None)
        logits = random_logits(rng, 10)
        expected = [reference(row.tolist(), *rows.get(i, ("off", 1.0, EOS))) for i, row in enumerate(logits)]
        assert_same(processor.apply(logits.clone()), expected)


@pytest.mark.parametrize(
    "extra", [{"safety_mode": "kill"}, {"safety_threshold": "x"}, {"safety_report": [1]}, {"safety_x": 1}]
)
def test_tag_processor_masks_tag_of_row_with_odd_arguments(extra: dict[str, Any]) -> None:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from safety_ray.decode.vllm_processor import TagProcessor, engine_config

    processor = TagProcessor(
        SimpleNamespace(additional_config=engine_config(TAG)), torch.device("cpu"), False
    )  # type: ignore[arg-type]
    added: Any = [(0, SamplingParams(extra_args=extra), None, [])]
    processor.update_state(BatchUpdate(batch_size=1, removed=[], added=added, moved=[]))
    logits = random_logits(random.Random(0), 1)
    expected = [reference(logits[0].tolist(), "mask", 1.0, EOS)]
    assert_same(processor.apply(logits.clone()), expected)


def test_tag_rows_stops_at_exact_threshold() -> None:
    batch = TagRows(tag=1)
    batch.add(0, TagPolicy("stop", 0.25), end=0)
    batch.flush()
    assert_same(batch.apply(torch.zeros(1, 4)), [[0.0, -math.inf, -math.inf, -math.inf]])


def test_tag_rows_applies_prompt_threshold_to_first_token_only() -> None:
    batch, output = TagRows(tag=1), [[], [], []]
    batch.add(0, TagPolicy("mask", prompt_threshold=0.25), end=1, output=output[0])
    batch.add(1, TagPolicy("stop", 0.9, 0.25), end=0, output=output[1])
    batch.add(2, TagPolicy("off", prompt_threshold=0.25), end=0, output=output[2])
    batch.flush()
    never = -math.inf
    assert_same(
        batch.apply(torch.zeros(3, 4)), [[never, 0, never, never], [0, never, never, never], [0, 0, 0, 0]]
    )
    batch.flush()  # another request joined; no token has been sampled in these rows
    output[1].append(2)
    assert_same(batch.apply(torch.zeros(3, 4)), [[never, 0, never, never], [0, never, 0, 0], [0, 0, 0, 0]])
    batch.flush()
    output[0].append(2)
    assert_same(batch.apply(torch.zeros(3, 4)), [[0, never, 0, 0], [0, never, 0, 0], [0, 0, 0, 0]])


def test_tag_rows_that_report_only_end_no_text() -> None:
    batch = TagRows(tag=1)
    batch.add(0, TagPolicy("off", prompt_threshold=0.1), end=0, column=1)
    batch.flush()
    assert_same(batch.apply(torch.zeros(1, 4)), [[0, 0, 0, 0]])


def test_tag_processor_reports_unmasked_p_tag_in_vllm_sampler() -> None:
    """Each request keeps its own log-probabilities, and the last of its columns is the tag's.

    The fifth request has no log-probabilities; its P(tag) is in a column of its own.
    """
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.sampler import Sampler

    from safety_ray.decode.vllm_processor import TagProcessor, engine_config

    config = SimpleNamespace(additional_config=engine_config(TAG))
    processor = TagProcessor(config, torch.device("cpu"), False)  # type: ignore[arg-type]
    for row, (mode, column) in enumerate(
        [("mask", 1), ("stop", 3), ("off", 2), ("mask", None), ("mask", LAST)]
    ):
        processor.batch.add(row, TagPolicy(mode, 0.9), end=EOS, column=column)
    processor.batch.flush()
    logits = random_logits(random.Random(1), 5)
    exact = logits.log_softmax(-1)
    metadata = SamplingMetadata(
        temperature=None,
        all_greedy=True,
        all_random=False,
        top_p=None,
        top_k=None,
        generators={},
        max_num_logprobs=4,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=torch.zeros(5),
        presence_penalties=torch.zeros(5),
        repetition_penalties=torch.ones(5),
        output_token_ids=[[], [], [], [], []],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors([processor]),
    )
    output = Sampler()(logits.clone(), metadata)
    table = output.logprobs_tensors
    for row, column in enumerate([1, 3, 2, None]):
        best = exact[row].topk(4).indices.tolist()
        expected = [int(output.sampled_token_ids[row]), *best]
        if column is not None:
            expected[column] = TAG
        assert table.logprob_token_ids[row, :-1].tolist() == expected
        torch.testing.assert_close(table.logprobs[row, :-1], exact[row, expected])
    assert table.logprob_token_ids[4, -1] == TAG
    assert table.logprobs[4, -1] == pytest.approx(exact[4, TAG].item())
    assert TAG not in output.sampled_token_ids[[0, 1, 3, 4]]


def test_tag_rows_respects_tag_masked_by_other_processors() -> None:
    batch = TagRows(tag=1)
    batch.add(0, TagPolicy("stop", 0.5), end=1)
    batch.flush()
    logits = torch.tensor([[0.0, -math.inf]])
    assert batch.apply(logits).tolist() == [[0.0, -math.inf]]


def test_end_token_prefers_tag_then_eos_then_stop_token() -> None:
    assert end_token(5, [9, 5], 3) == 5
    assert end_token(5, [9], 3) == 3
    assert end_token(5, [9], None) == 9
    assert end_token(5, None, None) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"safety_mode": "kill"}, "unknown safety mode 'kill'; choose from off, mask, stop"),
        ({"safety_mode": 3}, "unknown safety mode 3"),
        ({"safety_mode": "stop", "safety_threshold": 0}, "a probability above 0"),
        ({"safety_mode": "stop", "safety_threshold": 1.5}, "a probability above 0"),
        ({"safety_mode": "stop", "safety_threshold": math.nan}, "a probability above 0"),
        ({"safety_mode": "stop", "safety_threshold": "low"}, "must be a number, not 'low'"),
        (
            {"safety_treshold": 0.1},
            "unknown safety setting 'safety_treshold'; the nearest is 'safety_threshold'",
        ),
        ({"safety_mode": ["stop"]}, "unknown safety mode"),
        ({"safety_threshold": [0.1]}, "threshold must be a number"),
        ({"safety_prompt_threshold": float("nan")}, "must be a probability above 0"),
        ({"safety_report": "yes"}, "safety_report must be true or false, not 'yes'"),
    ],
)
def test_parse_policy_rejects_invalid_safety_arguments(values: dict[str, Any], message: str) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    from safety_ray.decode.vllm_processor import TagProcessor

    with pytest.raises(UserError, match=message):
        parse_policy(values, TagPolicy())
    with pytest.raises(VLLMValidationError, match=message):
        TagProcessor.validate_params(SamplingParams(extra_args=values))


@pytest.mark.parametrize("values", [{"search": 5}, {"search": ["a"]}, {"search": None}])
def test_validate_params_rejects_odd_searches(values: dict[str, Any]) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    from safety_ray.decode.vllm_processor import TagProcessor

    with pytest.raises(VLLMValidationError, match="search must be an object"):
        TagProcessor.validate_params(SamplingParams(extra_args=values))
    with pytest.raises(VLLMValidationError, match="leave out logprob_token_ids"):
        TagProcessor.validate_params(
            SamplingParams(extra_args={"safety_report": True}, logprobs=1, logprob_token_ids=[1])
        )


def test_parse_policy_uses_defaults_and_ignores_other_arguments() -> None:
    assert parse_policy({"other": 1, "safety_mode": "stop"}, TagPolicy("mask", 0.2)) == TagPolicy("stop", 0.2)
    assert parse_policy(None, TagPolicy("mask", 0.2)) == TagPolicy("mask", 0.2)


@pytest.mark.parametrize(
    "conflicting",
    [{"logit_bias": {TAG: -9.0}}, {"allowed_token_ids": [1]}, {"bad_words": ["x"]}, {"min_tokens": 2}],
)
def test_check_sampling_rejects_p_tag_changes_in_stop_mode(conflicting: dict[str, Any]) -> None:
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=9, **conflicting)
    check_sampling(TagPolicy("mask"), TAG, params)
    with pytest.raises(UserError, match=f"{next(iter(conflicting))} changes"):
        check_sampling(TagPolicy("stop", 0.1), TAG, params)


def test_check_sampling_rejects_tag_only_and_ignore_eos() -> None:
    from vllm import SamplingParams

    with pytest.raises(UserError, match="has the harmfulness tag only"):
        check_sampling(TagPolicy("mask"), TAG, SamplingParams(allowed_token_ids=[TAG]))
    with pytest.raises(UserError, match="ignore_eos"):
        check_sampling(TagPolicy("stop", 0.1), TAG, SamplingParams(ignore_eos=True))
