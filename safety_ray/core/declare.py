"""Declaration of a setting: a field of a config class. It needs no package; `config` loads the values."""

from __future__ import annotations

import dataclasses
from typing import Any

REQUIRED: Any = dataclasses.MISSING


def setting(
    help: str,
    *,
    default: Any = REQUIRED,
    factory: Any = REQUIRED,
    identity: bool = True,
    of: Any = None,
) -> Any:
    """Declare a setting: a dataclass field with the text that `--help` shows.

    With `identity=False` the setting does not affect the output of a stage (number of workers, paths,
    logging), so an unfinished output folder can be resumed with another value. The underscore at the end of
    a field name is not part of the setting's name: `from_` is set by `from=...`. A dict[str, Any] of settings
    that are checked later names their types with `of`: a config class, or dict[str, <config class>].
    """
    metadata = {"help": help, "identity": identity, "of": of}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)
