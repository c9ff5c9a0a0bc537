"""The modes in slots, compared with a plain Python reference, in batches whose rows change each step."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from test_processor import EOS, TAG, VOCAB, assert_same, random_logits, reference

from safety_ray.decode.processor import TagPolicy
from safety_ray.decode.slots import TagSlots

SLOTS = 10


def apply(slots: TagSlots, logits: torch.Tensor, rows: list[int], first: list[bool]) -> torch.Tensor:
    """Apply the modes as an engine does whose biases change the logits after they were measured."""
    log_p_tags = slots.measure(logits, np.array(rows))
    return slots.apply(logits.clone(), torch.tensor(rows), torch.tensor(first), log_p_tags)


@pytest.mark.parametrize("seed", range(4))
def test_tag_slots_matches_reference_in_changing_batches(seed: int) -> None:
    rng = random.Random(seed)
    slots = TagSlots(TAG, SLOTS)
    requests: dict[int, tuple[TagPolicy, int]] = {}
    for _ in range(80):
        for slot in rng.sample(range(SLOTS), rng.randint(0, 3)):  # a new request may replace another one
            mode, end = rng.choice(["off", "mask", "stop"]), rng.choice([EOS, TAG, 9])
            policy = TagPolicy(mode, rng.choice([0.05, 0.3, 0.8]), rng.choice([0.1, 1.0]))
            assert slots.add(slot, policy, end) == (mode != "off")
            requests[slot] = policy, end
        slots.flush()
        rows = [rng.randrange(SLOTS) for _ in range(rng.randint(1, 8))]  # drafts: several rows of a slot
        first = [rng.random() < 0.5 for _ in rows]
        logits = random_logits(rng, len(rows))
        expected = []
        for row, slot in enumerate(rows):
            policy, end = requests.get(slot, (TagPolicy(), EOS))
            threshold = policy.threshold if policy.mode == "stop" else math.inf
            if first[row] and policy.prompt_threshold < 1:
                threshold = min(threshold, policy.prompt_threshold)
            mode = "off" if policy.mode == "off" else "stop"
            expected.append(reference(logits[row].tolist(), mode, threshold, end))
        assert_same(apply(slots, logits, rows, first), expected)


def test_tag_slots_compares_own_p_tag_after_penalties() -> None:
    """A penalty on other tokens raises the probability of the tag, but not the model's own P(tag)."""
    slots = TagSlots(TAG, SLOTS)
    slots.add(4, TagPolicy("stop", 0.5), EOS)
    slots.flush()
    logits = torch.zeros(1, VOCAB)
    measured = slots.measure(logits, np.array([4]))
    assert measured is not None
    assert measured.exp().item() == pytest.approx(1 / VOCAB)
    penalized = logits - 9.0
    penalized[0, TAG] = 0.0
    expected = [reference(penalized[0].tolist(), "mask", 1.0, EOS)]
    assert_same(slots.apply(penalized, torch.tensor([4]), torch.tensor([False]), measured), expected)


def test_tag_slots_reports_in_own_column_only() -> None:
    slots = TagSlots(TAG, SLOTS)
    for slot, (mode, column) in {7: ("mask", 2), 1: ("off", None), 3: ("off", 1)}.items():
        slots.add(slot, TagPolicy(mode), EOS, column=column)
    slots.flush()
    rows, logits = [1, 3, 7], random_logits(random.Random(2), 3)
    exact = logits.log_softmax(-1)
    ids = torch.tensor([[8, 2, 4], [8, 2, 4], [8, 2, 4]])
    table = exact.gather(1, ids)
    measured = slots.measure(logits, np.array(rows))
    assert measured is not None
    slots.report(measured, torch.tensor(rows), ids, table)
    assert ids.tolist() == [[8, 2, 4], [8, TAG, 4], [8, 2, TAG]]
    torch.testing.assert_close(table, exact.gather(1, ids))


def test_tag_slots_measures_only_for_rows_that_need_it() -> None:
    slots = TagSlots(TAG, SLOTS)
    slots.add(0, TagPolicy("mask"), EOS)
    slots.add(1, TagPolicy("stop", 0.3), EOS)
    slots.flush()
    logits = random_logits(random.Random(3), 1)
    assert slots.measure(logits, np.array([0])) is None
    assert slots.measure(logits, np.array([1])) is not None
    slots.add(1, TagPolicy("off"), EOS)
    assert slots.measure(logits, np.array([1])) is None


def test_tag_slots_needs_a_token_that_ends_texts() -> None:
    policies: list[Any] = [TagPolicy("stop", 0.5), TagPolicy("mask", prompt_threshold=0.5)]
    for policy in policies:
        with pytest.raises(ValueError, match="needs a token that ends it"):
            TagSlots(TAG, SLOTS).add(0, policy)
