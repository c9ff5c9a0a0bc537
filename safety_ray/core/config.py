"""Settings: a frozen dataclass, overridden by a yaml file, overridden by `key=value` arguments.

    python -m jobs.score configs/score/demo.yaml documents=web/ batch_tokens=8192

A config class is declared beside the function it configures:

    @dataclass(frozen=True, kw_only=True, slots=True)
    class ScoreConfig:
        documents: str = setting("folder of documents")                 # required
        batch_tokens: int = setting("tokens in a batch", default=4096)

`load` creates an instance; every mistake is a `UserError` that names the key. A setting of type str has the
text as it is written: `mode=off`, `prompt=Note: 007`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import textwrap
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from safety_ray.core import as_written, secrets
from safety_ray.core.declare import REQUIRED
from safety_ray.core.declare import setting as setting
from safety_ray.core.errors import UserError, nearest

T = TypeVar("T")


def load(cls: type[T], argv: list[str]) -> T:
    """Create a `cls` from `argv`: an optional yaml path, then `key=value` arguments.

    Raises UserError for an invalid file, key or value, and SystemExit(0) after `--help`.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(describe(cls))
        raise SystemExit(0)
    words = list(argv)
    layers: list[tuple[str, DictConfig]] = []
    if words and "=" not in words[0]:
        path = words.pop(0)
        layers.append((path, _read_yaml(path, cls)))
    for word in words:
        if "=" not in word:
            raise UserError(f"'{word}' is not a setting: write key=value, or the yaml file first.")
        key, value = word.split("=", 1)
        try:
            layers.append((f"'{word}'", _read_argument(key, value, cls)))
        except Exception as error:
            raise UserError(f"the value of '{key}' cannot be read: {_first_line(error)}.") from error
    return _build(cls, layers)


def from_dict(cls: type[T], values: dict[str, Any], where: str = "the settings") -> T:
    """Create a `cls` from a plain dictionary, with the checks and messages of `load`."""
    as_written.check(values, cls, where)
    return _build(cls, [(where, OmegaConf.create(values))])


def dump(config: Any) -> dict[str, Any]:
    """Return the config as JSON values, defaults included."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def not_identity(cls: type) -> frozenset[str]:
    """Return the dotted keys of the settings of `cls` that are declared with `identity=False`.

    A nested dataclass with `identity=False` is one key.
    """
    hints = as_written.field_types(cls)
    keys: set[str] = set()
    for f in dataclasses.fields(cls):
        if not f.metadata.get("identity", True):
            keys.add(f.name)
        elif isinstance(hints[f.name], type) and dataclasses.is_dataclass(hints[f.name]):
            keys |= {f"{f.name}.{key}" for key in not_identity(hints[f.name])}
    return frozenset(keys)


def defaults(cls: type) -> dict[str, Any]:
    """Return the default of each setting that has one, nested settings with dotted keys."""
    return {key: default for key, _, default, _ in _settings(cls) if default is not REQUIRED}


def fingerprint(values: Any) -> str:
    """Return a short hash of JSON values that is independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    # Names of files need not be valid Unicode.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def describe(cls: type) -> str:
    """Return the text of `--help`: each setting with its type, default and meaning."""
    lines = [" ".join((cls.__doc__ or cls.__name__).split()), ""]
    lines.append("usage: [CONFIG.yaml] [key=value ...]")
    lines.append("")
    for key, kind, default, help in _settings(cls):
        head = f"  {key}: {kind}" + ("  (required)" if default is REQUIRED else f" = {_as_yaml(default)}")
        lines += [head, *textwrap.wrap(help, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    return "\n".join(lines)


def _as_yaml(value: Any) -> str:
    """Return a default as it is written in a config file."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("...\n").strip()


def _build(cls: type[T], layers: list[tuple[str, DictConfig]]) -> T:
    merged: Any = _defaults(typing.cast(type, cls))
    renamed = {f.name[:-1]: f.name for f in dataclasses.fields(typing.cast(Any, cls)) if f.name[-1] == "_"}
    for where, layer in layers:
        if not isinstance(layer, DictConfig):
            raise UserError(f"{where} has no settings: it must be a mapping of keys to values.")
        _check_keys(cls, layer, where)
        for name in renamed.keys() & layer.keys():
            layer[renamed[name]] = layer.pop(name)
        try:
            if isinstance(output := layer.get("output"), str):  # the names of files are added after one slash
                layer["output"] = output.rstrip("/") or output
            merged = OmegaConf.merge(merged, layer)
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            key = getattr(error, "full_key", None) or _invalid_key(merged, layer)
            raise UserError(f"{where}: {key}: {_first_line(error)}.") from error
    try:
        values = typing.cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
        secrets.check(values)
        _check_not_empty(merged, typing.cast(type, cls))
        _check_finite(values)
        return typing.cast(T, OmegaConf.to_object(merged))
    except MissingMandatoryValue as error:
        missing = sorted(str(key) for key in OmegaConf.missing_keys(merged))
        raise UserError(
            f"{cls.__name__} needs a value for {', '.join(missing)}: give it as {missing[0]}=..."
        ) from error
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{cls.__name__}: {_first_line(error)}") from error


@functools.cache
def _defaults(cls: type) -> DictConfig:
    """Return the defaults of `cls`, which must not be changed; `OmegaConf.merge` copies them."""
    return typing.cast(DictConfig, OmegaConf.structured(cls))


def _invalid_key(merged: Any, layer: DictConfig) -> str:
    """Return the first key of `layer` that cannot be merged, for errors of OmegaConf without a key."""
    for name in layer:
        try:
            OmegaConf.merge(merged, {name: layer._get_node(name)})
        except Exception:
            return str(name)
    return "a setting"


def _read_argument(key: str, value: str, cls: type) -> DictConfig:
    kind = as_written.type_of(cls, key)
    if not value or as_written.is_text(kind):  # `key=` is the empty string
        layer = OmegaConf.create()
        OmegaConf.update(layer, key, None if value == "null" and kind is not str else value)
        return layer
    return OmegaConf.from_dotlist([f"{key}={as_written.quoted(value, kind)}"])


def _read_yaml(path: str, cls: type) -> DictConfig:
    if not Path(path).is_file():
        raise UserError(f"the config file '{path}' does not exist.")
    try:
        loaded = OmegaConf.load(path)  # names the line of an error
        if isinstance(loaded, DictConfig):
            text = as_written.quoted(Path(path).read_text(encoding="utf-8"), cls)
            loaded = OmegaConf.load(io.StringIO(text))
    except Exception as error:
        raise UserError(f"the config file '{path}' is not valid yaml: {_first_line(error)}.") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"the config file '{path}' must be a mapping of keys to values.")
    return loaded


def _check_keys(cls: type, layer: DictConfig, where: str) -> None:
    """Raise UserError for a key of `layer` that `cls` does not have."""
    known = [key for key, *_ in _settings(cls)]
    opaque = {key for key, kind, *_ in _settings(cls) if kind.startswith("dict")}
    groups = {key.rsplit(".", n)[0] for key in known for n in range(1, key.count(".") + 1)}

    def walk(node: DictConfig, prefix: str) -> None:
        for name in node:
            key = f"{prefix}{name}"
            if key in opaque:
                continue
            if key in groups and isinstance(node._get_node(name), DictConfig):
                walk(typing.cast(DictConfig, node._get_node(name)), f"{key}.")
            elif key not in known and key not in groups:
                # The value of an argument may be a secret, and messages come into logs.
                place = f"'{key}'" if key and where.startswith("'") else where
                raise UserError(
                    f"{place}: unknown setting '{key}'; the nearest is '{nearest(key, known)}' "
                    f"({cls.__name__}; --help lists all)."
                )

    walk(layer, "")


def _check_not_empty(merged: Any, cls: type) -> None:
    """Raise UserError for a required text that is empty: as a path it would be the working directory."""
    for key, kind, default, _ in _settings(cls):
        if kind == "str" and default is REQUIRED and OmegaConf.select(merged, key) == "":
            raise UserError(f"{key} is empty; give it a value, as in {key}=...")


def _check_finite(values: Any, key: str = "") -> None:
    """Raise UserError for a number that passes comparisons such as `x <= 0`, and that JSON does not have."""
    children = values.items() if isinstance(values, dict) else enumerate(values)
    for name, value in children:
        if isinstance(value, (dict, list)):
            _check_finite(value, f"{key}{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}{name}={value} must be a finite number.")


def _settings(cls: type, prefix: str = "") -> list[tuple[str, str, Any, str]]:
    """Return (dotted key, type, default, help) of every leaf setting of `cls`, nested ones included."""
    hints = as_written.field_types(cls)
    rows: list[tuple[str, str, Any, str]] = []
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            rows += _settings(hint, f"{prefix}{f.name}.")
            continue
        default = f.default
        if default is dataclasses.MISSING and f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        help = " ".join(str(f.metadata.get("help", "")).split())
        rows.append((f"{prefix}{f.name.rstrip('_')}", _type_name(hint), default, help))
    return rows


def _type_name(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(arg) for arg in typing.get_args(hint))
    if origin is not None:
        return str(hint).replace("typing.", "")
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _first_line(error: BaseException) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem and mark:  # the errors of yaml begin with the context
        return f"{problem} (line {mark.line + 1})"
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
