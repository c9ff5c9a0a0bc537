"""The model to serve: where it is, and whether its tag can be guarded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safety_ray.core import model_path
from safety_ray.core import tag as harm
from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError
from serve.settings import ServeConfig


def model_folder(path: str) -> str:
    """Return the Hugging Face folder at `path`, or in the output of a finished training at `path`.

    Raises UserError if there is no model, or if its training is not finished.
    """
    if not Path(path).is_dir():
        raise UserError(f"the model folder '{path}' does not exist.")
    read_record(path)  # raises an error of its own for an unfinished run
    return str(Path(model_path.find(path)).resolve())


def check_model(config: ServeConfig) -> tuple[str, int | None]:
    """Return the model's folder and the id of its tag; None if it has no tag and mode off needs none.

    Raises UserError if there is no model, or none that can be guarded.
    """
    folder = model_folder(config.model)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the tokenizer of '{config.model}' cannot be read: {last_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of '{config.model}' is slow; only fast tokenizers can be guarded.")
    tag = harm.tag_of(tokenizer, config.tag)
    if config.mode == "off" and tag not in tokenizer.get_vocab():
        return folder, None
    tag_id = harm.tag_id(tokenizer, tag, f"the model '{config.model}'")
    if not tokenizer.added_tokens_decoder[tag_id].special:
        raise UserError(
            f"'{tag}' is not a special token of the model '{config.model}', so texts could forge it."
        )
    return folder, tag_id


def max_positions(folder: str) -> int:
    """Return the maximum number of tokens that the model in `folder` accepts."""
    settings = json.loads((Path(folder) / "config.json").read_text())
    return int(settings.get("max_position_embeddings") or sys.maxsize)


def has_chat_template(folder: str) -> bool:
    """Return whether the tokenizer in `folder` has a chat template."""
    tokenizer_config = Path(folder) / "tokenizer_config.json"
    if tokenizer_config.is_file() and "chat_template" in json.loads(tokenizer_config.read_text()):
        return True
    return (Path(folder) / "chat_template.jinja").is_file()


def last_line(error: Exception) -> str:
    """Return the last line of an error's message, or the name of its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
