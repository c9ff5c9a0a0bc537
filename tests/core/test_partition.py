"""Shares of the input's files, and the checks before they are joined."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from safety_ray.core import dataset, partition
from safety_ray.core.artifact import input_fingerprint
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    documents: str = setting("dataset")
    output: str = setting("folder", identity=False)
    partition: str = setting(partition.SETTING, default="")


def five_files(folder: Path) -> str:
    for name in range(5):
        dataset.write_table(pa.table({"id": [f"d{name}"]}), str(folder / f"{name}.parquet"))
    return str(folder)


def test_shares_have_every_file_once() -> None:
    for total, number in combinations_with_replacement(range(12, 0, -1), 2):
        names = [f"{n}.parquet" for n in reversed(range(total))]
        shares = [partition.Share.of("x", n, number).select(names) for n in range(1, number + 1)]
        assert sorted(name for share in shares for name in share) == sorted(names)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_share_limits_every_reader_of_a_path(tmp_path: Path) -> None:
    source = five_files(tmp_path / "in")
    share = partition.Share.of(source, 2, 2)
    assert [Path(name).stem for name in dataset.files(share)] == ["1", "3"]
    assert dataset.count(share) == dataset.count_where(share, "id", ["d0", "d1", "d3", "d4"]) == 2
    assert dataset.table(share).column("id").to_pylist() == ["d1", "d3"]
    assert input_fingerprint(share) == input_fingerprint(source), "the input is the same for all partitions"
    again = pickle.loads(pickle.dumps(share))
    assert (again, again.nth, again.total) == (source, 2, 2)
    with pytest.raises(UserError, match=r"partition=6/6: '.*in' has 5 files, so n can be at most 5"):
        dataset.files(partition.Share.of(source, 6, 6))


def test_partition_of_config_changes_input_and_output(tmp_path: Path) -> None:
    config = StageConfig(documents=str(tmp_path), output="runs/scored/", partition="3/4")
    mine = partition.of(config, "documents")
    assert mine.output == "runs/scored/partitions/3-of-4"
    assert isinstance(mine.documents, partition.Share)
    assert (mine.documents.nth, mine.documents.total) == (3, 4)
    whole = StageConfig(documents="a", output="b")
    assert partition.of(whole, "documents") is whole


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "1 of 2", "-1/2", "1/2/3", "01/2"])
def test_partition_check_rejects_what_is_no_share(text: str) -> None:
    with pytest.raises(UserError, match=r"must be i/n with i from 1 to n, such as 1/8"):
        partition.check(text)
    partition.check("1/1")
    partition.check("")


def test_partition_record_names_files_and_listing(tmp_path: Path) -> None:
    source = five_files(tmp_path / "in")
    records = [partition.record("score", dataset.files, partition.Share.of(source, n, 2)) for n in (1, 2)]
    partition.check_files("out", records)
    assert partition.record("score", dataset.files, source) == {}
    with pytest.raises(UserError, match=r"'out': 3 files were read by two partitions, as '.*0\.parquet'"):
        partition.check_files("out", [records[0], records[0]])
    dataset.write_table(pa.table({"id": ["d9"]}), str(tmp_path / "in/9.parquet"))
    changed = partition.record("score", dataset.files, partition.Share.of(source, 2, 2))
    with pytest.raises(UserError, match="did not see the same files of their input"):
        partition.check_files("out", [records[0], changed])


def test_partition_folders_are_found_on_any_filesystem() -> None:
    fs = fsspec.filesystem("memory")
    fs.makedirs("/partitioned/partitions/1-of-1")
    assert partition.folders("memory://partitioned") == ["partitions/1-of-1"]
    fs.rm("/partitioned", recursive=True)


def test_partition_folders_names_what_is_missing(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with pytest.raises(UserError, match=r"has no partitions; run a stage with partition=1/n output="):
        partition.folders(output)
    for name in ("1-of-3", "3-of-3", "1-of-3.dry-run"):
        (tmp_path / "out/partitions" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"1 of 3 partitions are not finished; .* partition=2/3"):
        partition.folders(output)
    (tmp_path / "out/partitions/2-of-3").mkdir()
    assert partition.folders(output) == [f"partitions/{n}-of-3" for n in (1, 2, 3)]
    (tmp_path / "out/partitions/1-of-2").mkdir()
    with pytest.raises(UserError, match=r"has partitions of 2 and of 3; remove those of one"):
        partition.folders(output)
