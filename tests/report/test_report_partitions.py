"""A report card from partitions is that of one run, and a merge refuses a tally that is not whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_data

from jobs.merge import MergeConfig, merge_partitions
from jobs.report import ReportConfig, write_report_card
from safety_ray.core import artifact
from safety_ray.core.errors import UserError

CARD = ("card.json", "card.html", "card.png", "README.md")
DIFFERS = ("config", "seconds", "finished")


def in_partitions(config: ReportConfig, number: int) -> dict[str, Any]:
    for index in range(number, 0, -1):
        write_report_card(replace(config, partition=f"{index}/{number}"))
    return merge_partitions(MergeConfig(output=config.output))


@pytest.mark.parametrize("has_rewritten", [True, False])
def test_report_partitions_write_card_of_one_run(
    has_rewritten: bool, tmp_path: Path, ray_cluster: None
) -> None:
    scored, rewritten = small_data.write(tmp_path)
    config = ReportConfig(
        scored=scored, rewritten=rewritten if has_rewritten else "", output=str(tmp_path / "whole")
    )
    whole = write_report_card(config)
    # There is one file of rewritten texts, so the second partition has none.
    parts = in_partitions(replace(config, output=str(tmp_path / "parts")), 2)
    for name in CARD:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert {key for key in whole if whole[key] != parts[key]} <= {*DIFFERS}
    assert parts["rows_in"] == (9 if has_rewritten else 5)
    assert write_report_card(replace(config, output=str(tmp_path / "parts"))) == parts, "it is finished"


def test_report_merge_refuses_tally_that_lost_documents(tmp_path: Path, ray_cluster: None) -> None:
    scored, rewritten = small_data.write(tmp_path)
    config = ReportConfig(scored=scored, rewritten=rewritten, output=str(tmp_path / "card"))
    for index in (1, 2):
        write_report_card(replace(config, partition=f"{index}/2"))
    part = tmp_path / "card/partitions/1-of-2"
    assert artifact.read_record(str(part)) is not None
    tally = pq.read_table(part / "tally.parquet", partitioning=None)
    pq.write_table(tally.slice(1), part / "tally.parquet")
    with pytest.raises(UserError, match=r"1-of-2/tally.parquet' counts \d documents, and its record 7"):
        merge_partitions(MergeConfig(output=config.output))
    record = json.loads((part / "record.json").read_text())
    record["partition"]["files"] *= 2
    (part / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"files were read by two partitions"):
        merge_partitions(MergeConfig(output=config.output))
    assert not (tmp_path / "card/card.json").exists()
