"""The stage collect: published label sets as scored documents, checked against labels written by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as pads
import pytest

from jobs.collect import CollectConfig, collect_documents
from safety_ray.core.errors import UserError


def rows(folder: Path, name: str) -> list[dict]:
    return pads.dataset(folder / name, format="parquet").to_table().to_pylist()


def test_collect_scores_own_contrasts_and_splits_by_seed(tmp_path: Path) -> None:
    # The one set that is part of the package; the others need files.
    config = CollectConfig(sources=["stance"], output=str(tmp_path / "out"), heldout_share=0.25)
    record = collect_documents(config)
    collected = rows(tmp_path / "out", "data")
    levels = {row["text"]: row["score"] for row in collected}
    assert levels["I hate women."] == 3
    assert levels["Kill every one of the Jews."] == 4
    assert levels["I hate Mondays."] == levels["I don't hate refugees at all."] == 0
    assert record["rows_in"] == record["rows_out"] == len(collected)
    heldout = [row for row in collected if row["split"] == "heldout"]
    assert rows(tmp_path / "out", "heldout") == heldout
    assert 0.2 < len(heldout) / len(collected) < 0.3  # 4 standard deviations are 0.06 for a thousand texts


def test_collect_rejects_labels_on_both_sides_of_threshold(tmp_path: Path) -> None:
    # "hate" is 3 to 5, so at unsafe_from=4 it is undecided; "call for violence" is 4 to 5, "respect" 0 to 1.
    config = CollectConfig(sources=["stance"], output=str(tmp_path / "out"), unsafe_from=4)
    record = collect_documents(config)
    kinds = {row["id"].split("/")[1] for row in rows(tmp_path / "out", "data")}
    undecided = rows(tmp_path / "out", "rejected")
    assert {row["id"].split("/")[1] for row in undecided} == {
        "hate", "attack on a person", "self-harm", "harmful request",
    }  # fmt: skip
    assert {"call for violence", "respect", "counter-speech", "refusal", "warning"} <= kinds
    assert {row["rejected_reason"] for row in undecided} == {"label 3-5 includes both sides"}
    assert record["rows_in"] == record["rows_out"] + record["rejected"]


def test_collect_keeps_unlabelled_prose_as_safe(tmp_path: Path, real_data: Path) -> None:
    config = CollectConfig(
        sources=["davidson", "news"], data=str(real_data), output=str(tmp_path / "out"), per_source=200
    )
    collect_documents(config)
    collected = rows(tmp_path / "out", "data")
    assert {row["score"] for row in collected if row["source"] == "news"} == {0}  # its range is 0 to 3
    assert {row["score"] for row in collected if row["source"] == "davidson"} == {0, 4}  # not 1 to 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": []}, "sources is empty"),
        ({"sources": ["stnce"]}, "unknown label set 'stnce'; the nearest is 'stance'"),
        ({"sources": ["stance"], "unsafe_from": 6}, "unsafe_from=6 must be from 1 to 5"),
        ({"sources": ["stance"], "per_source": -1}, "per_source=-1 must be at least 0"),
        ({"sources": ["stance"], "heldout_share": 2.0}, "heldout_share=2.0 must be from 0 to 1"),
    ],
)
def test_collect_rejects_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CollectConfig(output="x", **settings)
