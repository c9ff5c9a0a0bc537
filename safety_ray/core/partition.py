"""A stage as n independent jobs, each on its share of the input's files: partition=i/n, then jobs.merge.

    <output>/partitions/<i>-of-<n>/    output folder of one job: its part of the result, and its own record
    <output>/record.json               written by jobs.merge: all partitions together are one result

File k of the sorted files of the input belongs to partition k mod n. A stage with two inputs reads a share of
each. A record names the files that were read, so that the merge can check that every file was read once.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from safety_ray.core import filesystem
from safety_ray.core.config import fingerprint
from safety_ray.core.errors import UserError

T = TypeVar("T")
SETTING = (
    "i/n: read only the i-th of n shares of the input's files, and write to <output>/partitions/; "
    "jobs.merge joins all n"
)
FOLDER = "partitions"
_NAME = re.compile(r"(\d+)-of-(\d+)")
_SHOWN = 4


class Share(str):
    """A path of which a stage reads every n-th file; equal to the path itself in settings and records."""

    nth: int
    total: int
    may_be_empty: bool

    @classmethod
    def of(cls, path: str, nth: int, total: int, may_be_empty: bool = False) -> Share:
        share = cls(path)
        share.nth, share.total, share.may_be_empty = nth, total, may_be_empty
        return share

    def select(self, files: list[str]) -> list[str]:
        """Return the files of this share. Raises UserError if there are none, unless it may be empty."""
        mine = sorted(files)[self.nth - 1 :: self.total]
        if not mine and not self.may_be_empty:
            raise UserError(
                f"partition={self.nth}/{self.total}: '{self}' has {len(files)} files, so n can be at most "
                f"{len(files)}."
            )
        return mine


def check(partition: str) -> None:
    """Raise UserError unless `partition` is empty or i/n with i from 1 to n."""
    if partition and _parse(partition) is None:
        raise UserError(f"partition='{partition}' must be i/n with i from 1 to n, such as 1/8.")


def of(config: T, key: str, *others: str) -> T:
    """Return the config of the job that `config.partition` names: its setting `key` reads a `Share`.

    So do `others`, which may be empty and have fewer files than there are partitions.
    """
    values: Any = config
    place = _parse(values.partition)
    if place is None:
        return config
    index, number = place
    output = f"{values.output.rstrip('/')}/{FOLDER}/{index}-of-{number}"
    changes = {key: Share.of(getattr(values, key), index, number), "output": output}
    for name in others:
        if path := getattr(values, name):
            changes[name] = Share.of(path, index, number, may_be_empty=True)
    return dataclasses.replace(values, **changes)  # type: ignore[no-any-return]


def select(path: str, files: list[str]) -> list[str]:
    """Return the files of `path` that a stage reads: all, or those of a share."""
    return path.select(files) if isinstance(path, Share) else files


def whole(path: str) -> str:
    """Return the path of which `path` may be a share."""
    return str(path)


def record(stage: str, files: Callable[[str], list[str]], *paths: str) -> dict[str, Any]:
    """Return what a partition's record says about its inputs `paths`; {} without partitions.

    `files` lists the files of a path.
    """
    shares = [(path, sorted(files(whole(path)))) for path in paths if isinstance(path, Share)]
    if not shares:
        return {}
    return {
        "partition": {
            "stage": stage,
            "index": shares[0][0].nth,
            "number": shares[0][0].total,
            "files": [file for share, listed in shares for file in share.select(listed)],
            "listed": fingerprint(sorted(file for _, listed in shares for file in listed)),
        }
    }


def folders(output: str) -> list[str]:
    """Return the folders of all n partitions below `output`, in order, relative to it.

    Raises UserError if there are none, or if one of them is missing.
    """
    fs, root = filesystem.find(f"{output.rstrip('/')}/{FOLDER}")
    names = (
        [str(name).rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(root, detail=False)]
        if fs.exists(root)
        else []
    )
    places = {name: (int(match[1]), int(match[2])) for name in names if (match := _NAME.fullmatch(name))}
    if not places:
        raise UserError(
            f"'{output}' has no partitions; run a stage with partition=1/n output={output} first."
        )
    numbers = sorted({number for _, number in places.values()})
    if len(numbers) > 1:
        raise UserError(
            f"'{output}/{FOLDER}' has partitions of {numbers[0]} and of {numbers[1]}; remove those of one."
        )
    check_missing(output, numbers[0], {index for index, _ in places.values()})
    return [f"{FOLDER}/{index}-of-{numbers[0]}" for index in range(1, numbers[0] + 1)]


def check_missing(output: str, number: int, done: set[int]) -> None:
    """Raise UserError unless `done` has all partitions from 1 to `number`."""
    missing = [f"{index}/{number}" for index in range(1, number + 1) if index not in done]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UserError(
            f"'{output}': {len(missing)} of {number} partitions are not finished; run the stage with "
            f"partition={', '.join(missing[:_SHOWN])}{more}."
        )


def check_files(output: str, records: list[dict[str, Any]]) -> None:
    """Raise UserError unless the partitions together have read every listed file once."""
    read = Counter(file for record in records for file in record["partition"]["files"])
    repeated = sorted(file for file, times in read.items() if times > 1)
    if repeated:
        raise UserError(f"'{output}': {len(repeated)} files were read by two partitions, as '{repeated[0]}'.")
    if {record["partition"]["listed"] for record in records} != {fingerprint(sorted(read))}:
        raise UserError(
            f"'{output}': the partitions did not see the same files of their input, so some were not read; "
            "run all of them again while the input does not change."
        )


def _parse(partition: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", partition)
    return (int(match[1]), int(match[2])) if match and int(match[1]) <= int(match[2]) else None
