"""Files of chats -> token rows, one chat in a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.chat.template import ensure_chat_template
from safety_ray.core import artifact, dataset, records, tag
from safety_ray.core.errors import UserError
from safety_ray.core.records import LEARN
from safety_ray.train.chats import Chat, TrainingChatEncoder, Unusable
from safety_ray.train.settings import FinetuneConfig

_WRITE = 1024  # rows written at a time
_SCHEMA = records.schema(records.TOKEN_ROW).append(pa.field(LEARN, pa.list_(pa.bool_())))
_REJECTED = pa.schema([("id", pa.string()), ("row", pa.string()), (dataset.REASON, pa.string())])


def prepare(config: FinetuneConfig, tokenizer: Any, out: artifact.Artifact, longest: int) -> dict[str, Any]:
    """Write the chats of `config.chats` as token rows into `out`; returns its record.

    Chats longer than max_length, or than the `longest` the model takes, are cut. The order of rows
    is by seed and id. Raises UserError where too many rows are unusable, and where unsafe rows are
    to be tagged and the tokenizer has no tag.
    """
    ensure_chat_template(tokenizer)
    tag_string = tag.tag_of(tokenizer, config.tag)
    if config.add_tag:
        tag.add_tag(tokenizer, tag_string)
    tagging = config.tagged_share > 0 and config.tag_rate > 0
    known = tokenizer.get_added_vocab().get(tag_string)
    if known is not None:
        tag.store_tag(tokenizer, tag_string)
    encoder = TrainingChatEncoder(
        tokenizer,
        seed=config.seed,
        tag_id=known,
        tagged_share=config.tagged_share if tagging else 0.0,
        tag_rate=config.tag_rate,
    )
    most = min(config.max_length or longest, longest)
    chats: list[tuple[str, Chat]] = []
    bad: list[dict[str, str]] = []
    cut = 0
    for name, row in read(config.chats):
        try:
            if isinstance(row, str):
                raise Unusable(row)
            if tagging and known is None and row.get("unsafe") is True:
                tag.tag_id(tokenizer, tag_string, f"the model '{config.model}' (tagged_share=0 does without)")
            chat = encoder.encode(name, row)
            if not any(chat.learn[:most]):
                raise Unusable(f"the assistant says nothing within {most} tokens")
        except Unusable as reason:
            bad.append({"id": name, "row": json.dumps(row, default=str), dataset.REASON: str(reason)})
            continue
        cut += len(chat.ids) > most
        chats.append((name, chat))
    chats.sort(key=lambda named: records.stable_hash(config.seed, "order", named[0]))
    length = min(max((len(chat.ids) for _, chat in chats), default=1), most)
    dataset.write_table(
        pa.Table.from_pylist(bad, schema=_REJECTED), out.sub("rejected", "shard-00000.parquet")
    )
    target = out.sub("data", "shard-00000.parquet")
    dataset.write_table(_SCHEMA.empty_table(), target)  # makes the folder
    with fsspec.open(target, "wb") as file, pq.ParquetWriter(file, _SCHEMA) as writer:
        for at in range(0, len(chats), _WRITE):
            writer.write_table(_table(chats[at : at + _WRITE], at, length))
    dataset.check_share(out.path, dataset.Counts(len(chats), len(bad)), config.max_rejected)
    tokenizer.save_pretrained(out.sub("tokenizer"))
    return out.commit(
        rows_in=len(chats) + len(bad),
        rows_out=len(chats),
        rejected=len(bad),
        tagged=sum(chat.tagged for _, chat in chats),
        cut=cut,
        row_length=length,
        vocab_size=len(tokenizer),
        tag=tag_string,
        tag_id=-1 if known is None else known,
    )


def read(path: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(id, row) of the JSONL or Parquet file or folder `path`; a line that is no row comes as the reason.

    The id is the row's own, or its file's name and its number there. UserError where there is no such file.
    """
    fs, root = fsspec.core.url_to_fs(path)
    if not fs.exists(root):
        raise UserError(f"chats: '{path}' does not exist.")
    names = [root] if fs.isfile(root) else sorted(fs.find(root))
    names = [name for name in names if name.endswith((".jsonl", ".parquet"))]
    if not names:
        raise UserError(f"chats: '{path}' holds no .jsonl and no .parquet file.")
    for name in names:
        with fs.open(name) as file:
            rows = _parquet_rows(file) if name.endswith(".parquet") else _json_rows(file)
            for number, row in enumerate(rows, start=1):
                own = row.get("id") if isinstance(row, dict) else None
                yield str(own) if own not in (None, "") else f"{name.rsplit('/', 1)[-1]}:{number}", row


def _json_rows(file: Any) -> Iterator[dict[str, Any] | str]:
    for line in file:
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                yield f"no JSON: {error}"
                continue
            yield row if isinstance(row, dict) else "no JSON object"


def _parquet_rows(file: Any) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(file).iter_batches(_WRITE):
        yield from batch.to_pylist()


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
