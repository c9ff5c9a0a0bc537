"""Files of chats → token rows, one chat per row."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.chat.template import ensure_chat_template
from safety_ray.core import artifact, dataset, filesystem, parquet, records, row_groups, tag
from safety_ray.core.arrow_rows import to_rows
from safety_ray.core.errors import UserError
from safety_ray.core.records import LEARN
from safety_ray.train.chats import READ, Chat, TrainingChatEncoder, Unusable
from safety_ray.train.settings import FinetuneConfig

logger = logging.getLogger(__name__)
_WRITE = row_groups.ROWS  # rows written at a time
_SCHEMA = records.schema(records.TOKEN_ROW).append(pa.field(LEARN, pa.list_(pa.bool_())))
_REJECTED = pa.schema([("id", pa.string()), ("row", pa.string()), (dataset.REASON, pa.string())])


def prepare(config: FinetuneConfig, tokenizer: Any, out: artifact.Artifact, longest: int) -> dict[str, Any]:
    """Write the chats of `config.chats` as token rows into `out`. Returns its record.

    Chats longer than max_length, or than `longest`, the model's context, are truncated. The order of rows
    depends on the seed and their ids. Raises UserError if too many rows are rejected, or if unsafe rows are
    to be tagged and the tokenizer has no tag.
    """
    ensure_chat_template(tokenizer)
    tag_string = tag.tag_of(tokenizer, config.tag)
    if config.add_tag:
        tag.add_tag(tokenizer, tag_string)
    tagging = config.tagged_share > 0 and config.tag_rate > 0
    tag_id = tokenizer.get_added_vocab().get(tag_string)
    if tag_id is not None:
        tag.store_tag(tokenizer, tag_string)
    encoder = TrainingChatEncoder(
        tokenizer,
        seed=config.seed,
        tag_id=tag_id,
        tagged_share=config.tagged_share if tagging else 0.0,
        tag_rate=config.tag_rate,
    )
    max_length = min(config.max_length or longest, longest)
    chats: list[tuple[str, Chat]] = []
    rejected: list[dict[str, str]] = []
    truncated = 0
    for name, row in read(config.chats):
        try:
            if isinstance(row, str):
                raise Unusable(row)
            if tagging and tag_id is None and row.get("unsafe") in (True, 1):
                tag.tag_id(tokenizer, tag_string, f"the model '{config.model}' (or set tagged_share=0)")
            chat = encoder.encode(name, row)
            if not any(chat.learn[:max_length]):
                raise Unusable(f"there is no reply to learn within {max_length} tokens")
        except Unusable as reason:
            rejected.append(
                {"id": name, "row": _to_json(row), dataset.REASON: records.valid_text(str(reason))}
            )
            continue
        truncated += len(chat.ids) > max_length
        chats.append((name, chat))
    chats.sort(key=lambda named: records.stable_hash(config.seed, "order", named[0]))
    length = min(max((len(chat.ids) for _, chat in chats), default=1), max_length)
    dataset.write_table(
        pa.Table.from_pylist(rejected, schema=_REJECTED), out.sub("rejected", "shard-00000.parquet")
    )
    target = out.sub("data", "shard-00000.parquet")
    dataset.write_table(_SCHEMA.empty_table(), target)  # creates the folder
    with fsspec.open(target, "wb") as file, pq.ParquetWriter(file, _SCHEMA) as writer:
        for start in range(0, len(chats), _WRITE):
            writer.write_table(_table(chats[start : start + _WRITE], start, length))
    row_groups.write_index(out.path)
    dataset.check_share(out.path, dataset.Counts(len(chats), len(rejected)), config.max_rejected)
    ignored = sum(chat.ignored for _, chat in chats)
    if ignored:
        logger.warning(
            "the chat template does not render the reasoning of %d replies, which is not learned; write it "
            "into their content, in the form that the template writes.",
            ignored,
        )
    with filesystem.written_at_once(out.sub("tokenizer")) as part:
        tokenizer.save_pretrained(part)
    return out.commit(
        rows_in=len(chats) + len(rejected),
        rows_out=len(chats),
        rejected=len(rejected),
        tagged=sum(chat.tagged for _, chat in chats),
        truncated=truncated,
        reasoning=sum(chat.reasoning for _, chat in chats),
        reasoning_ignored=ignored,
        row_length=length,
        vocab_size=len(tokenizer),
        tag=tag_string,
        tag_id=-1 if tag_id is None else tag_id,
    )


def read(path: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield (id, row) for a JSONL or Parquet file or folder; an unreadable row is yielded as (id, reason).

    The id is that of the row, else its file name and line number. Raises UserError if there is no such file.
    """
    fs, root = fsspec.core.url_to_fs(path)
    if not fs.exists(root):
        raise UserError(f"chats: '{path}' does not exist.")
    names = [root] if fs.isfile(root) else sorted(fs.find(root))
    names = [name for name in names if name.endswith((".jsonl", ".parquet"))]
    if not names:
        raise UserError(f"chats: '{path}' contains no .jsonl or .parquet file.")
    for name in names:
        with fs.open(name) as file, parquet.readable(name):
            rows = _parquet_rows(file) if name.endswith(".parquet") else _json_rows(file)
            for number, row in enumerate(rows, start=1):
                id = row.get("id") if isinstance(row, dict) else None
                yield (
                    records.valid_text(str(id))
                    if id not in (None, "")
                    else f"{name.rsplit('/', 1)[-1]}:{number}",
                    row,
                )


def _to_json(row: dict[str, Any] | str) -> str:
    try:
        return json.dumps(row, default=str)
    except RecursionError:
        return "(nested too deeply)"


def _json_rows(file: Any) -> Iterator[dict[str, Any] | str]:
    for line in file:
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"invalid JSON: {error}"
                continue
            yield row if isinstance(row, dict) else "not a JSON object"


def _parquet_rows(file: Any) -> Iterator[dict[str, Any] | str]:
    for batch in pq.ParquetFile(file).iter_batches(_WRITE):
        for row, unreadable in to_rows(batch):
            reasons = (
                f"its {name} cannot be read ({reason})"
                for name, reason in unreadable.items()
                if name.split(".")[0] in READ
            )
            yield next(reasons, row)


def _table(chats: list[tuple[str, Chat]], first: int, length: int) -> pa.Table:
    ids = np.zeros((len(chats), length), np.int32)
    learn = np.zeros((len(chats), length), np.bool_)
    spans = []
    for n, (name, chat) in enumerate(chats):
        used = min(len(chat.ids), length)
        ids[n, :used], learn[n, :used] = chat.ids[:used], chat.learn[:used]
        span = {"id": name, "source_id": name, "recipe": "chat", "unsafe": chat.tagged}
        spans.append([{**span, "start": 0, "length": used}])
    edges = pa.array(np.arange(len(chats) + 1) * length, pa.int32())
    return pa.table(
        {
            "row": pa.array(range(first, first + len(chats)), pa.int64()),
            "input_ids": pa.ListArray.from_arrays(edges, pa.array(ids.ravel())),
            "spans": pa.array(spans, _SCHEMA.field("spans").type),
            LEARN: pa.ListArray.from_arrays(edges, pa.array(learn.ravel())),
        },
        schema=_SCHEMA,
    )
