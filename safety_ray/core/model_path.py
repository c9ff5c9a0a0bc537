"""The location of a language model: a folder or URL, the output of a run, or an id on the model hub."""

from __future__ import annotations

import json

from safety_ray.core import filesystem
from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError


def is_hub_id(path: str) -> bool:
    """Return whether `path` is an id on the model hub, such as gpt2 or someone/model, and no local path."""
    fs, root = filesystem.find(path)
    looks_like_id = "://" not in path and path.count("/") <= 1 and not path.startswith((".", "/"))
    return looks_like_id and not fs.exists(root)


def as_input(name: str, path: str) -> dict[str, str]:
    """Return {name: path} for `artifact.begin`; {} for a hub id, which the settings have, or no path."""
    return {} if not path or is_hub_id(path) else {name: path}


def find(path: str, key: str = "model") -> str:
    """Return the Hugging Face folder: `path`, or `<path>/model` in the output of a training run.

    A path may be a URL. An id on the model hub is returned as it is. Raises UserError, naming the
    setting `key`, if there is no model.
    """
    if is_hub_id(path):
        return path
    fs, root = filesystem.find(path)
    for candidate in (f"{root}/model", root):
        settings = f"{candidate}/config.json"  # folders of stages have a file of this name as well
        if fs.isfile(settings) and "model_type" in json.loads(fs.cat_file(settings)):
            return candidate if filesystem.is_local(path) else str(fs.unstrip_protocol(candidate))
    read_record(path)  # raises an error of its own for an unfinished run
    raise UserError(
        f"{key}: '{path}' contains no model; give a folder with a Hugging Face config.json, or an output "
        "folder of pretrain or finetune."
    )
