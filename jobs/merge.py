"""partitions of a stage → one result: check that all are finished and that none overlap, and join them.

<output>/partitions/    the partitions, which stay where they are
<output>/record.json    the record of the stage, as if it had run without partitions

The next stage reads <output> as one dataset. What a stage decides from all documents is done here: documents
of `ingest` whose id another partition has as well are rejected, `pack` mixes the documents and writes the
rows, and `report` adds up the sums and writes the card.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jobs.ingest import IngestConfig, reject_repeated_ids
from jobs.label import LabelConfig
from jobs.pack import PackConfig, finish_partitions
from jobs.report import ReportConfig, finish_card, read_tally
from jobs.rewrite import RewriteConfig
from jobs.score import ScoreConfig
from safety_ray.core import artifact, cluster, dataset, lost_work, partition
from safety_ray.core.artifact import Artifact, Fingerprint
from safety_ray.core.config import from_dict, setting
from safety_ray.core.dataset import Counts
from safety_ray.core.errors import UserError
from safety_ray.ingest import unique_ids
from safety_ray.report.tally import Cell, Sums

STAGES: dict[str, type] = {
    "ingest": IngestConfig,
    "label": LabelConfig,
    "score": ScoreConfig,
    "rewrite": RewriteConfig,
    "pack": PackConfig,
    "report": ReportConfig,
}
"""The stages with a setting `partition`."""
_OWN = {
    *("config", "fingerprint", "inputs", "rows_in", "rows_out", "rejected", "seconds", "finished"),
    *("versions", "partition", lost_work.KEY),
}
"""Values of a record that are not added up"""
_SAME = {"threshold", "files_passed_over"}
"""Numbers that are about the whole input, and so the same in all partitions"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeConfig:
    """Join the partitions of a stage, and do what it decides from all documents."""

    output: str = setting("the output folder of the stage, which has partitions/")


def merge_partitions(config: MergeConfig) -> dict[str, Any]:
    """Join the partitions in `config.output`. Returns the record; a finished folder is skipped."""
    output = config.output.rstrip("/")
    folders = partition.folders(output)
    records = read_records(output, folders)
    stage = records[0]["partition"]["stage"]
    settings = [whole_config(record, STAGES[stage], output) for record in records]
    for folder, record, values in zip(folders, records, settings, strict=True):
        artifact.check_same(f"{output}/{folder}", values, settings[0], record["inputs"], records[0]["inputs"])
    partition.check_files(output, records)
    inputs: dict[str, str] = {name: Fingerprint(value) for name, value in records[0]["inputs"].items()}
    out = artifact.begin(output, settings[0], inputs, existing=(partition.FOLDER,))
    if out.record is not None:
        return out.record
    out.started -= sum(record["seconds"] for record in records)  # all work counts, that of this merge too
    out.lost_before += [record.get(lost_work.KEY, {}) for record in records]
    if stage == "report":
        return join_tallies(settings[0], out, folders, records)
    if stage == "ingest":
        cluster.start()
        files = [file for record in records for file in record["partition"]["files"]]
        stored = [file for folder in folders for file in unique_ids.stored_files(f"{output}/{folder}")]
        reject_repeated_ids(stored, files)
    by_folder = {
        folder: check_rows(f"{output}/{folder}", record)
        for folder, record in zip(folders, records, strict=True)
    }
    if stage == "pack":
        return finish_partitions(settings[0], out, folders, records)
    counts = sum(by_folder.values(), Counts(0, 0))
    if not counts.rows_out and stage != "rewrite":
        raise UserError(f"'{output}' has no rows: all {counts.rejected} were rejected.")
    return out.commit(
        rows_in=sum(record["rows_in"] for record in records),
        rows_out=counts.rows_out,
        rejected=counts.rejected,
        partitions=same_columns(output, [name for name in folders if by_folder[name].rows_out]) or folders,
        **add_up(records),
    )


def read_records(output: str, folders: list[str]) -> list[dict[str, Any]]:
    """Return the records of all partitions. Raises UserError if one of them is not finished."""
    finished = [folder for folder in folders if artifact.is_finished(f"{output}/{folder}")]
    done = {number for number, folder in enumerate(folders, start=1) if folder in finished}
    partition.check_missing(output, len(folders), done)
    return [artifact.read_record(f"{output}/{folder}") or {} for folder in folders]


def whole_config(record: dict[str, Any], cls: type, output: str) -> Any:
    """Return the settings of a partition's record without the partition."""
    return from_dict(cls, record["config"] | {"partition": "", "output": output}, "the record of a partition")


def check_rows(path: str, record: dict[str, Any]) -> Counts:
    """Return the rows of a partition. Raises UserError unless they are all that its record counts."""
    counts = dataset.stored(path)
    rows, recorded = counts.rows_out + counts.rejected, record["rows_out"] + record["rejected"]
    if rows != recorded:  # which of them are rejected may have changed since
        raise UserError(
            f"'{path}' has {rows:,} rows, and its record counts {recorded:,}; remove this folder and run the "
            "partition again."
        )
    return counts


def join_tallies(
    config: ReportConfig, out: Artifact, folders: list[str], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the card of all partitions of `report`. Returns the record."""
    cells: dict[Cell, Sums] = {}
    for folder, record in zip(folders, records, strict=True):
        for cell, sums in read_tally(out.sub(folder), record["rows_out"]).items():
            cells[cell] = cells.get(cell, Sums()) + sums
    return finish_card(config, out, cells, sum(record["rows_in"] for record in records))


def same_columns(output: str, folders: list[str]) -> list[str]:
    """Return `folders`, which have rows. Raises UserError unless they have the same columns."""
    columns = {folder: dataset.columns(f"{output}/{folder}") for folder in folders}
    for folder in folders:
        if sorted(columns[folder]) != sorted(columns[folders[0]]):
            raise UserError(
                f"'{output}/{folder}' has other columns than {folders[0]}: {', '.join(columns[folder])}; "
                "run both partitions again with the same version."
            )
    return folders


def add_up(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the other values of the records: counts are added up, and values that are equal are kept.

    Shares, such as that of padding, are left out: each partition's record has its own.
    """
    total: dict[str, Any] = {}
    for number, record in enumerate(records):
        for key, value in record.items():
            if key in _OWN:
                continue
            if isinstance(value, dict):
                total[key] = add_up([total.get(key, {}), value])
            elif isinstance(value, int) and key not in _SAME:
                total[key] = total.get(key, 0) + value
            elif not isinstance(value, float) and (not number or total.get(key, value) == value):
                total[key] = value
    return total


if __name__ == "__main__":
    from jobs.cli import main

    main("merge")
