"""The report stage on real Ray: its output, resuming, and invalid input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import small_data

from jobs.report import ReportConfig, write_report_card
from safety_ray.core import artifact, dataset
from safety_ray.core.errors import UserError
from safety_ray.core.records import REWRITTEN, SCORED


def numbers(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return {key: card[key] for key in ("headline", "outcomes", "slices", "ngrams", "categories")}


def test_report_stage_writes_card_with_expected_numbers(
    tmp_path: Path, card: dict[str, Any], ray_cluster
) -> None:
    scored, rewritten = small_data.write(tmp_path)
    out = tmp_path / "card"
    config = ReportConfig(
        scored=scored, rewritten=rewritten, output=str(out), title=card["title"], batch_rows=2
    )
    record = write_report_card(config)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (9, 9, 0)
    assert record["headline"]["ngrams_per_million"]["before"]["value"] == pytest.approx(
        9 / 40 * 1e6, abs=0.001
    )
    assert {p.name for p in out.iterdir()} == {
        *("card.json", "card.html", "card.png", "README.md", "config.json", "record.json"),
    }
    assert numbers(out) == {key: card[key] for key in numbers(out)}
    assert write_report_card(config) == artifact.read_record(str(out))


def test_report_stage_resumes_unfinished_folder(tmp_path: Path, ray_cluster) -> None:
    scored, _ = small_data.write(tmp_path)
    config = ReportConfig(scored=scored, output=str(tmp_path / "card"))
    artifact.begin(config.output, config, inputs={"scored": scored})
    (tmp_path / "card" / "card.json").write_text("{")
    assert write_report_card(config)["rows_out"] == 5
    assert (tmp_path / "card" / "card.png").stat().st_size > 10_000
    assert "after" not in numbers(tmp_path / "card")["slices"]


def test_report_stage_counts_all_as_lost_without_accepted_texts(tmp_path: Path, ray_cluster) -> None:
    scored, _ = small_data.write(tmp_path)
    dataset.write_table(small_data.table([], REWRITTEN), str(tmp_path / "none" / "1.parquet"))
    config = ReportConfig(scored=scored, rewritten=str(tmp_path / "none"), output=str(tmp_path / "card"))
    outcomes = write_report_card(config)["outcomes"]
    assert [outcomes[name]["documents"] for name in ("kept", "rewritten", "lost")] == [2, 0, 3]


def test_report_stage_rejects_bad_input_before_work(tmp_path: Path) -> None:
    scored, rewritten = small_data.write(tmp_path)
    out = str(tmp_path / "card")
    with pytest.raises(UserError, match="does not exist"):
        write_report_card(ReportConfig(scored=str(tmp_path / "nowhere"), output=out))
    with pytest.raises(UserError, match="no column 'source_id'"):
        write_report_card(ReportConfig(scored=scored, rewritten=scored, output=out))
    with pytest.raises(UserError, match="is not an audit"):
        write_report_card(ReportConfig(scored=scored, thresholds_from=scored, output=out))
    dataset.write_table(pa.table({"id": ["a"], "text": ["b"]}), str(tmp_path / "plain" / "1.parquet"))
    with pytest.raises(UserError, match="no column 'score'"):
        write_report_card(ReportConfig(scored=str(tmp_path / "plain"), output=out))
    dataset.write_table(small_data.table([], SCORED), str(tmp_path / "empty" / "1.parquet"))
    with pytest.raises(UserError, match="has no rows"):
        write_report_card(ReportConfig(scored=str(tmp_path / "empty"), rewritten=rewritten, output=out))
    assert not Path(out).exists()
    for wrong in ({"title": " "}, {"title": "two\nlines"}, {"batch_rows": 0}, {"license": ""}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            ReportConfig(scored=scored, output=out, **wrong)  # type: ignore[arg-type]


def test_report_stage_raises_user_error_for_bad_row(tmp_path: Path, ray_cluster) -> None:
    rows = [{**row, "score": 9 if row["id"] == "d" else row["score"]} for row in small_data.SCORED_ROWS]
    dataset.write_table(small_data.table(rows, SCORED), str(tmp_path / "scored" / "1.parquet"))
    with pytest.raises(UserError, match="the row with id 'd' has score 9; it must be an integer from 0 to 5"):
        write_report_card(ReportConfig(scored=str(tmp_path / "scored"), output=str(tmp_path / "card")))
    assert not (tmp_path / "card" / "record.json").exists()
