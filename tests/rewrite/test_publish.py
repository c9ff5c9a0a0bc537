"""Rewritten rows in the published form, as the datasets library loads them, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import yaml

from jobs.publish import PublishConfig, convert_published
from safety_ray.core import dataset
from safety_ray.core.errors import UserError

ROWS = [
    {"root_id": f"w{n}", "recipe": recipe, "source_score": score}
    for n, (recipe, score) in enumerate([("rephrase", 1), ("rephrase", 3), ("rephrase", 3), ("refuse", 4)])
] + [{"root_id": "w3", "recipe": "moralize", "source_score": 4}]


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "id": f"{r['root_id']}/{r['recipe']}", "text": f"Text {n}.", "source_id": r["root_id"],
            "style": "a", "score": 0, "probs": [1.0, 0.0], "url": f"https://example.org/{n}", **r,
        }
        for n, r in enumerate(ROWS)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("rewritten")
    table = pa.Table.from_pylist(rows)
    for name in ("source_score", "score"):
        table = table.set_column(table.column_names.index(name), name, table.column(name).cast(pa.int8()))
    dataset.write_table(table, str(folder / "a.parquet"))
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, rewritten: Path, ray_cluster: None) -> Path:
    out = tmp_path_factory.mktemp("published") / "out"
    record = convert_published(PublishConfig(input=str(rewritten), output=str(out)))
    assert record["sets"] == {
        "safeweb/score_1_rephrased": 1, "safeweb/score_3_rephrased": 2,
        "refuseweb/score_4_refusal": 1, "moral_education/score_4_morals": 1,
    }  # fmt: skip
    return out


def test_publish_stage_output_loads_with_datasets_library(sets: Path, tmp_path: Path) -> None:
    def load(name: str, config: str) -> list[dict[str, Any]]:
        loaded = datasets.load_dataset(str(sets / name), config, split="train", cache_dir=str(tmp_path))
        assert loaded.column_names == ["id", "text", "metadata"]
        return loaded.to_list()

    assert datasets.get_dataset_config_names(str(sets / "safeweb")) == [
        "score_1_rephrased", "score_3_rephrased",
    ]  # fmt: skip
    rephrased = load("safeweb", "score_3_rephrased")
    assert {row["id"] for row in rephrased} == {"w1", "w2"}
    [row] = load("refuseweb", "score_4_refusal")
    assert (row["id"], row["text"]) == ("w3", "Text 3.")
    metadata = row["metadata"]
    assert (metadata["source_score"], metadata["safety_score"], metadata["style"]) == (4, 0, "a")
    assert metadata["url"] == "https://example.org/3"
    assert load("moral_education", "score_4_morals")[0]["metadata"]["recipe"] == "moralize"
    front = (sets / "safeweb" / "README.md").read_text().split("---")[1]
    assert [config["config_name"] for config in yaml.safe_load(front)["configs"]] == [
        "score_1_rephrased", "score_3_rephrased",
    ]  # fmt: skip


def test_publish_stage_round_trip_restores_rewritten_rows(
    sets: Path, rewritten: Path, tmp_path: Path, ray_cluster: None
) -> None:
    out = str(tmp_path / "back")
    record = convert_published(PublishConfig(input=str(sets), output=out, direction="from"))
    assert record["rows_out"] == len(ROWS)
    names = ["id", "text", "recipe", "style", "source_score", "root_id"]
    before, after = (dataset.table(path, names).to_pylist() for path in (str(rewritten), out))
    assert after == before


def test_publish_stage_reads_paper_file_format(tmp_path: Path, ray_cluster: None) -> None:
    """In the paper's files `metadata` has only the columns of the web document."""
    table = pa.table(
        {"id": ["<urn:1>"], "text": ["User: A?\nAssistant: No."], "metadata": [{"int_score": 3}]}
    )
    dataset.write_table(table, str(tmp_path / "refuseweb" / "score_5_refusal" / "train-0.parquet"))
    out = str(tmp_path / "out")
    convert_published(PublishConfig(input=str(tmp_path / "refuseweb"), output=out, direction="from"))
    [row] = dataset.table(out).to_pylist()
    assert (row["id"], row["source_id"], row["recipe"]) == ("<urn:1>/refuse", "<urn:1>", "refuse")
    assert (row["source_score"], row["metadata"]) == (5, {"int_score": 3})


def test_publish_stage_rejects_invalid_input(tmp_path: Path, rewritten: Path, ray_cluster: None) -> None:
    with pytest.raises(UserError, match="is in no folder of a published config"):
        convert_published(PublishConfig(input=str(rewritten), output=str(tmp_path / "a"), direction="from"))
    with pytest.raises(UserError, match="has no Parquet files"):
        convert_published(PublishConfig(input=str(tmp_path), output=str(tmp_path / "b"), direction="from"))
    dataset.write_table(pa.table({"id": ["a"], "text": ["b"]}), str(tmp_path / "raw" / "a.parquet"))
    with pytest.raises(UserError, match="has no column 'source_id'"):
        convert_published(PublishConfig(input=str(tmp_path / "raw"), output=str(tmp_path / "c")))
    table = dataset.table(str(rewritten))
    scores = pa.array([None] * 2 + [3] * (len(table) - 2), pa.int8())
    table = table.set_column(table.column_names.index("source_score"), "source_score", scores)
    dataset.write_table(table, str(tmp_path / "unscored" / "a.parquet"))
    with pytest.raises(UserError, match=r"has 2 rows without source_score, which must be 1 to 5\."):
        convert_published(PublishConfig(input=str(tmp_path / "unscored"), output=str(tmp_path / "d")))


def test_publish_stage_limits_rows_of_a_file(tmp_path: Path, rewritten: Path, ray_cluster: None) -> None:
    out = tmp_path / "out"
    convert_published(PublishConfig(input=str(rewritten), output=str(out), write_rows=1))
    assert len(list((out / "safeweb" / "score_3_rephrased").glob("*.parquet"))) == 2
