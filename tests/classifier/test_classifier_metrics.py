"""The classifier's metrics against values computed by hand."""

from __future__ import annotations

import numpy as np

from safety_ray.classifier.metrics import measure


def test_fit_metrics_count_only_rows_with_decisive_labels() -> None:
    low, high = [0, 0, 1, 2, 4, 4], [0, 2, 5, 5, 5, 4]
    probs = np.eye(6)[[0, 3, 0, 4, 5, 2]]
    found = measure(low, high, [0, 3, 0, 4, 5, 2], probs)
    assert (found["n"], found["exact"]) == (6, 2)
    assert found["recall_at_1"] == 0.75  # four are 1 or more, the third is missed
    assert found["precision_at_1"] == 1.0  # the second may be 1 or 2, and does not count
    assert (found["recall_at_3"], found["false_alarms_at_3"]) == (0.5, 0.5)
    assert found["auroc_at_3"] == 0.5  # unsafe risks 1 and 0, safe ones 0 and 1: two wins of four, by halves
    assert found["auroc_at_2"] == 1.0  # the first row alone is surely below 2
    assert measure([0, 0], [0, 0], [0, 1], np.eye(6)[[0, 1]])["auroc"] is None
