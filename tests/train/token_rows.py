"""Fixtures: small token rows with a real tokenizer, as the pack job writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from safety_ray.core import records, tag

TEXT = "the quick brown fox jumps over the lazy dog and runs away from the angry bear in the dark forest"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 tokens, with end-of-text and the tag."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [TEXT] * 4,
        trainers.BpeTrainer(
            vocab_size=299,
            special_tokens=[tag.END_OF_TEXT],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=tag.END_OF_TEXT)
    tag.add_tag(fast)
    return fast


@pytest.fixture(scope="session")
def write_rows(tokenizer: PreTrainedTokenizerFast) -> Callable[..., str]:
    """Return a function that writes token rows with predictable text."""

    def write(
        folder: Path,
        rows: int = 64,
        length: int = 32,
        files: int = 2,
        seed: int = 0,
        noise: range = range(0),
        cut: int = 0,
    ) -> str:
        """Write rows. Those in `noise` are random ids; with `cut`, a second document starts at that token."""
        generator = np.random.default_rng(seed)
        tag_id = tag.tag_id(tokenizer)
        written = []
        for row in range(rows):
            words = generator.permutation(TEXT.split())
            ids = tag.encode(tokenizer, [" ".join([*words, *words, *words])])[0]
            used = length - int(generator.integers(0, 6))
            ids = [*ids[: used - 1], int(tokenizer.eos_token_id)]
            unsafe = row % 3 == 0
            if unsafe:
                ids[5] = ids[11] = tag_id
            if row in noise:
                ids = generator.integers(1, tag_id, used).tolist()
            span = {"id": f"d{row}", "source_id": f"s{row}", "recipe": "raw"}
            written.append(
                {
                    "row": row,
                    "input_ids": ids + [0] * (length - used),
                    "spans": [{**span, "start": 0, "length": cut or used, "unsafe": unsafe}]
                    + [{**span, "start": cut, "length": used - cut, "unsafe": False}] * bool(cut),
                }
            )
        (folder / "data").mkdir(parents=True)
        for n, part in enumerate(np.array_split(np.arange(rows), files)):
            table = pa.Table.from_pylist([written[i] for i in part], schema=records.schema(records.TOKEN_ROW))
            pq.write_table(table, folder / "data" / f"shard-{n:05}.parquet", row_group_size=7)
        tokenizer.save_pretrained(folder / "tokenizer")
        record: dict[str, Any] = {
            "config": {},
            "inputs": {},
            "fingerprint": f"rows-{seed}-{rows}-{length}",
            "rows_out": rows,
            "row_length": length,
            "vocab_size": len(tokenizer),
            "tag": tag.TAG,
            "tag_id": tag_id,
        }
        (folder / "record.json").write_text(json.dumps(record))
        return str(folder)

    return write


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group with only this process, and one thread, so that sums have a fixed order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    torch.set_num_threads(threads)
