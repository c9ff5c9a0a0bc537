"""Token rows of one length: concatenated documents, and which span of a row came from which document.

A document may continue in the next row. The last row is padded with end-of-text, which belongs to no span.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from safety_ray.core.records import LEARN, SPAN, TOKEN_ROW, schema

_DOCUMENT_COLUMNS = ("id", "source_id", "recipe", "unsafe")


def pack_rows(
    documents: pa.Table,
    row_length: int,
    end_id: int,
    first_row: int,
    *,
    tag_id: int = -1,
    learn_tags: bool = True,
    learn_unsafe: bool = True,
) -> pa.Table:
    """Return the encoded documents of one shard as rows of TOKEN_ROW.

    Documents are sorted by `order`, so the result does not depend on the order of `documents`.

    Args:
        documents: columns `input_ids`, `order`, `id`, `source_id`, `recipe` and `unsafe`.
        row_length: tokens in a row.
        end_id: id of end-of-text, for padding.
        first_row: position of the first row in the training order of all shards.
        tag_id: id of the tag.
        learn_tags: whether tags are targets of the loss.
        learn_unsafe: whether the other tokens of unsafe documents are. If one of the two is false, the rows
            have a column `learn`, which is false at tokens that are no targets.
    """
    documents = documents.sort_by([("order", "ascending"), ("id", "ascending"), ("recipe", "ascending")])
    column = documents.column("input_ids").combine_chunks()
    tokens = column.flatten().to_numpy(zero_copy_only=False)
    count = -(-len(tokens) // row_length)
    padded = np.full(count * row_length, end_id, np.int32)
    padded[: len(tokens)] = tokens

    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    document_starts = np.cumsum(lengths) - lengths
    row_starts = np.arange(count) * row_length
    starts = np.unique(np.concatenate([document_starts, row_starts]))
    ends = np.append(starts[1:], len(tokens))
    document = np.searchsorted(document_starts, starts, side="right") - 1
    spans = {
        **{
            name: documents.column(name).combine_chunks().take(pa.array(document))
            for name in _DOCUMENT_COLUMNS
        },
        "start": pa.array(starts % row_length, pa.int32()),
        "length": pa.array(ends - starts, pa.int32()),
    }
    offsets = np.searchsorted(starts, np.append(row_starts, len(tokens)))
    span_array = pa.StructArray.from_arrays([spans[field.name] for field in SPAN], fields=list(SPAN))
    rows = pa.table(
        {
            "row": pa.array(np.arange(first_row, first_row + count), pa.int64()),
            "input_ids": pa.ListArray.from_arrays(
                pa.array(np.arange(count + 1) * row_length, pa.int32()), pa.array(padded)
            ),
            "spans": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), span_array),
        },
        schema=schema(TOKEN_ROW),
    )
    if learn_tags and learn_unsafe:
        return rows
    is_tag = padded == tag_id
    learned = np.full(len(padded), True) if learn_tags else ~is_tag
    if not learn_unsafe:
        unsafe = documents.column("unsafe").to_numpy(zero_copy_only=False).astype(np.bool_)
        in_unsafe = np.append(np.repeat(unsafe, lengths), np.full(len(padded) - len(tokens), False))
        learned &= ~in_unsafe | is_tag
    learn = pa.ListArray.from_arrays(rows.column("input_ids").chunk(0).offsets, pa.array(learned))
    return rows.append_column(LEARN, learn)
